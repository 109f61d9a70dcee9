#![allow(missing_docs, clippy::unwrap_used, clippy::indexing_slicing)]
fn main() {
    let a: Vec<String> = std::env::args().collect();
    let t = std::time::Instant::now();
    let (x, y) = (dynamos_differ::map::Mapping::open(a[1].as_ref()).unwrap(), dynamos_differ::map::Mapping::open(a[2].as_ref()).unwrap());
    let (x, y) = (dynamos_differ::image::Image::parse(x.bytes(), "a").unwrap(), dynamos_differ::image::Image::parse(y.bytes(), "b").unwrap());
    eprintln!("parse {:?}", t.elapsed());
    let f = dynamos_differ::image::functions(&x, &y);
    eprintln!("functions {:?} {}", t.elapsed(), f.len());
    for v in f.iter().filter(|v| v.verdict != dynamos_differ::verdict::Verdict::Unchanged) { println!("F {:?} {} [{}] {}", v.verdict, v.name, v.file, v.reason); }
    let (l, _) = dynamos_differ::image::layouts(&x, &y).unwrap();
    eprintln!("layouts {:?}", t.elapsed());
    for c in &l { println!("{:?} {} {:?} {} {}", c.kind, c.name, c.verdict, c.old.len(), c.new.len()); }
}
