//! `kernel-trees`: the kernels of the manifest, fetched, unpacked and prepared.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context;
use clap::{Parser, Subcommand, ValueEnum};
use kernel_trees::{Cache, Kernel, Manifest, Part, Quiet, SourceId, Stderr};

/// Provisions Debian kernels: sources, images, headers and debug packages are fetched
/// from the archive (no root, nothing installed), checked, unpacked, prepared for
/// building single objects, and cached.
#[derive(Parser)]
#[command(
    version,
    after_help = "Paths go to stdout, progress to stderr.\n\n\
    Examples:\n  kernel-trees list\n  kernel-trees fetch 6.1.192-1 --part image\n  \
    kernel-trees prepare 6.12.107\n  make -C \"$(kernel-trees path 6.12.107 headers)\" M=$PWD modules"
)]
struct Args {
    /// The cache [default: $DYNAMOS_CACHE, else $XDG_CACHE_HOME/dynamos, else ~/.cache/dynamos]
    #[arg(long, global = true, value_name = "DIR")]
    cache: Option<PathBuf>,
    /// No progress on stderr
    #[arg(long, short, global = true)]
    quiet: bool,
    #[command(subcommand)]
    command: Sub,
}

#[derive(Subcommand)]
enum Sub {
    /// List the kernels of the manifest
    List {
        /// The whole manifest as JSON
        #[arg(long)]
        json: bool,
    },
    /// Fetch the packages of a kernel, and print their files
    Fetch {
        /// A version, a prefix of one, or a release
        kernel: String,
        /// What to fetch; may be given several times
        #[arg(long = "part", value_enum, default_values = ["source", "image", "headers"])]
        parts: Vec<PartArg>,
    },
    /// Prepare a kernel's source with its own configuration, and print the tree's path
    Prepare {
        /// A version, a prefix of one, or a release
        kernel: String,
    },
    /// Print the path of something, and provision it first if needed
    Path {
        /// A version, a prefix of one, or a release
        kernel: String,
        /// Of what
        #[arg(value_enum, default_value = "prepared")]
        what: What,
    },
    /// Build the debug kernel of a version's source (checkers and fault injection on),
    /// and print the directory it was built in
    DebugKernel {
        /// A version, a prefix of one, or a release
        kernel: String,
    },
}

#[derive(Clone, Copy, ValueEnum)]
enum PartArg {
    Source,
    Image,
    Headers,
    Debug,
}

impl From<PartArg> for Part {
    fn from(part: PartArg) -> Self {
        match part {
            PartArg::Source => Self::Source,
            PartArg::Image => Self::Image,
            PartArg::Headers => Self::Headers,
            PartArg::Debug => Self::Debug,
        }
    }
}

#[derive(Clone, Copy, ValueEnum)]
enum What {
    /// The pristine source tree (do not write into it)
    Source,
    /// The source tree, prepared (do not write into it)
    Prepared,
    /// The root of the unpacked image package
    Image,
    /// The bootable kernel
    Vmlinuz,
    /// The kernel's configuration
    Config,
    /// lib/modules/RELEASE
    Modules,
    /// A directory for `make -C DIR M=…`
    Headers,
    /// The root of the unpacked debug package (1 GB to fetch)
    Debug,
}

fn main() -> ExitCode {
    match run(Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("kernel-trees: {error:#}");
            ExitCode::from(2)
        }
    }
}

fn run(args: Args) -> anyhow::Result<()> {
    let manifest = Manifest::builtin()?;
    let open = || -> anyhow::Result<Cache> {
        let cache = Cache::open(args.cache.as_deref())?;
        Ok(cache.with_progress(if args.quiet {
            Arc::new(Quiet)
        } else {
            Arc::new(Stderr::default())
        }))
    };
    match &args.command {
        Sub::List { json: true } => {
            let text = serde_json::to_string_pretty(&manifest).context("cannot write JSON")?;
            print(&text)
        }
        Sub::List { json: false } => {
            let lines: Vec<_> = manifest
                .kernels
                .iter()
                .map(|k| format!("{:<22}{}", k.version, k.release))
                .collect();
            print(&lines.join("\n"))
        }
        Sub::Fetch { kernel, parts } => {
            let kernel = manifest.find(kernel)?;
            let cache = open()?;
            for part in parts {
                for file in cache.fetch(kernel, (*part).into())? {
                    print(&file.display().to_string())?;
                }
            }
            Ok(())
        }
        Sub::Prepare { kernel } => {
            print(&path(&open()?, manifest.find(kernel)?, What::Prepared)?.display().to_string())
        }
        Sub::DebugKernel { kernel } => {
            let built = open()?.debug_kernel(manifest.find(kernel)?)?;
            print(&built.build_dir().display().to_string())
        }
        Sub::Path { kernel, what } => {
            print(&path(&open()?, manifest.find(kernel)?, *what)?.display().to_string())
        }
    }
}

fn path(cache: &Cache, kernel: &Kernel, what: What) -> anyhow::Result<PathBuf> {
    Ok(match what {
        What::Source => cache.source(kernel)?,
        What::Prepared => {
            let image = cache.image(kernel)?;
            cache.prepared(&SourceId::Deb(kernel), &image.config, &image.release)?.root()
        }
        What::Image => cache.image(kernel)?.dir,
        What::Vmlinuz => cache.image(kernel)?.vmlinuz,
        What::Config => cache.image(kernel)?.config,
        What::Modules => cache.image(kernel)?.modules,
        What::Headers => cache.headers(kernel)?,
        What::Debug => cache.debug(kernel)?,
    })
}

/// A closed pipe is no reason to panic.
fn print(text: &str) -> anyhow::Result<()> {
    use std::io::Write;
    match writeln!(std::io::stdout(), "{text}") {
        Err(e) if e.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        other => other.context("cannot write to stdout"),
    }
}
