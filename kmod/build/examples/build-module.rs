//! `cargo run -p kmod-build --example build-module -- HEADERS RELEASE CACHE [SOURCES]`
use std::path::Path;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [headers, release, cache, sources @ ..] = arguments.as_slice() else {
        return Err("usage: build-module HEADERS RELEASE CACHE [SOURCES]".into());
    };
    let sources = sources.first();
    let built = kmod_build::build(&kmod_build::Request {
        headers: Path::new(headers),
        release,
        cache: Path::new(cache),
        sources: &sources.map_or_else(kmod_build::source_directory, Into::into),
    })?;
    println!("{}\n{}", built.ko.display(), built.symvers.display());
    Ok(())
}
