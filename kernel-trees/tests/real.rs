//! Against real kernels from Debian's archive. What is not in the cache is fetched, so the
//! first run needs the network; `cargo xtask test` runs them with the cache of all tests.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic)]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use kernel_trees::{Cache, Kbuild, Kernel, Link, Manifest, Owner, Prepared, SourceId};

/// One of each series: 6.1 runs objtool on every object, 6.12 on the linked ones only.
const VERSIONS: [&str; 2] = ["6.1.192-1", "6.12.107"];

fn kernel(manifest: &Manifest, version: &str) -> (Cache, Kernel) {
    (Cache::open(None).unwrap(), manifest.find(version).unwrap().clone())
}

fn prepared(version: &str) -> Prepared {
    let (cache, kernel) = kernel(&Manifest::builtin().unwrap(), version);
    let image = cache.image(&kernel).unwrap();
    cache.prepared(&SourceId::Deb(&kernel), &image.config, &image.release).unwrap()
}

fn owner(kbuild: &Kbuild, source: &str) -> Owner {
    kbuild.owner_of(Path::new(source)).unwrap()
}

/// `built-in`, or the module's name, of the file's only object.
fn linked_into(kbuild: &Kbuild, source: &str) -> (String, String) {
    match owner(kbuild, source) {
        Owner::Objects { objects, .. } if objects.len() == 1 => match &objects[0].link {
            Link::BuiltIn => (objects[0].object.clone(), "built-in".to_owned()),
            Link::Module { name, .. } => (objects[0].object.clone(), name.clone()),
        },
        other => panic!("{source}: {other:?}"),
    }
}

#[test]
fn a_module_builds_against_the_headers_in_the_cache() {
    for version in VERSIONS {
        let (cache, kernel) = kernel(&Manifest::builtin().unwrap(), version);
        let headers = cache.headers(&kernel).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let source = "#include <linux/module.h>\nMODULE_LICENSE(\"GPL\");\n";
        fs::write(dir.path().join("hello.c"), source).unwrap();
        fs::write(dir.path().join("Makefile"), "obj-m := hello.o\n").unwrap();
        let module_dir = format!("M={}", dir.path().display());
        let make =
            Command::new("make").arg("-C").arg(&headers).arg(module_dir).arg("modules").output();
        let make = make.unwrap();
        assert!(make.status.success(), "{}", String::from_utf8_lossy(&make.stderr));
        let module = fs::read(dir.path().join("hello.ko")).unwrap();
        let vermagic = format!("vermagic={} SMP", kernel.release);
        assert!(module.windows(vermagic.len()).any(|w| w == vermagic.as_bytes()), "{vermagic}");
    }
}

#[test]
fn owners_of_real_sources() {
    for version in VERSIONS {
        let prepared = prepared(version);
        let kbuild = prepared.kbuild().unwrap();
        for (source, object, link) in [
            ("fs/ext4/mballoc.c", "fs/ext4/mballoc.o", "ext4"),
            ("fs/xfs/libxfs/xfs_ag.c", "fs/xfs/libxfs/xfs_ag.o", "xfs"),
            ("sound/pci/hda/hda_intel.c", "sound/pci/hda/hda_intel.o", "snd_hda_intel"),
            ("virt/kvm/kvm_main.c", "arch/x86/kvm/../../../virt/kvm/kvm_main.o", "kvm"),
            (
                "drivers/gpu/drm/amd/display/dc/core/dc.c",
                "drivers/gpu/drm/amd/amdgpu/../display/dc/core/dc.o",
                "amdgpu",
            ),
            ("mm/slub.c", "mm/slub.o", "built-in"),
            ("arch/x86/entry/vdso/vma.c", "arch/x86/entry/vdso/vma.o", "built-in"),
            ("arch/x86/kernel/head_64.S", "arch/x86/kernel/head_64.o", "built-in"),
        ] {
            assert_eq!(linked_into(&kbuild, source), (object.to_owned(), link.to_owned()));
        }
        for (source, reason) in [
            ("lib/ctype.c", "lib.a"),
            ("scripts/mod/modpost.c", "program of the build"),
            ("arch/x86/entry/vdso/vclock_gettime.c", "vDSO"),
            ("arch/x86/boot/main.c", "boot code"),
            ("arch/x86/purgatory/purgatory.c", "purgatory"),
            ("kernel/bounds.c", "rule of its own"),
            ("arch/x86/kernel/asm-offsets.c", "rule of its own"),
            ("arch/x86/kernel/vmlinux.lds.S", "linker script"),
        ] {
            let owner = owner(&kbuild, source);
            assert!(
                matches!(&owner, Owner::NotOrdinary { why } if why.contains(reason)),
                "{source}: {owner:?}"
            );
        }
        assert!(matches!(owner(&kbuild, "kernel/kcsan/core.c"), Owner::NotBuilt { .. }));
        assert_eq!(owner(&kbuild, "kernel/sched/idle.c"), Owner::NotAnObjectSource);
        assert!(
            matches!(owner(&kbuild, "lib/crypto/sha256.c"), Owner::Objects { also_named_by, .. }
            if also_named_by == ["arch/x86/purgatory/Makefile"])
        );
        assert!(kbuild.owner_of(Path::new("../x.c")).is_err());
        assert!(kbuild.owner_of(Path::new("/x.c")).is_err());
    }
}

/// Asking for many sources at once gives what asking for each gives.
#[test]
fn many_sources_have_the_same_owners() {
    let prepared = prepared(VERSIONS[1]);
    let kbuild = prepared.kbuild().unwrap();
    let header = PathBuf::from("include/linux/etherdevice.h");
    let sources = kbuild.includers(&[header]).unwrap();
    assert!(sources.len() >= 1000, "{}", sources.len());
    let objects = kbuild.objects_of(&sources).unwrap();
    let built = objects.iter().filter(|objects| !objects.is_empty()).count();
    assert!(built > 500, "{built}");
    for (source, objects) in sources.iter().zip(&objects).step_by(20) {
        let alone = match kbuild.owner_of(source).unwrap() {
            Owner::Objects { objects, .. } => objects,
            _ => Vec::new(),
        };
        assert_eq!(*objects, alone, "{}", source.display());
    }
}

/// Builds two objects through Kbuild in a view, and compares: the command it stored, the
/// code our command makes, and the headers it read.
#[test]
fn commands_and_includers_agree_with_a_real_build() {
    for version in VERSIONS {
        let prepared = prepared(version);
        let kbuild = prepared.kbuild().unwrap();
        let objects = ["fs/ext4/mballoc.o", "fs/pipe.o"];
        let commands = kbuild.compile_commands(&objects).unwrap();
        let view = prepared.view(&[]).unwrap();
        // make also looks at the Kconfig files of what a view leaves out.
        let mut copy = Command::new("cp");
        copy.args(["-a", "--link", "--no-clobber"]).arg(prepared.root().join("arch"));
        copy.arg(prepared.root().join("Documentation")).arg(view.root());
        assert!(copy.status().unwrap().success());
        // objtool would change the objects of 6.1; the compiler's output is compared.
        let make = Command::new("make")
            .current_dir(view.root())
            .arg(format!("CC={}", prepared.compiler()))
            .arg(format!("HOSTCC={}", prepared.compiler()))
            .arg(format!("KERNELRELEASE={}", prepared.release()))
            .arg(format!("filechk_kernel.release=echo {}", prepared.release()))
            .arg("objtool-enabled=")
            .args(objects)
            .output()
            .unwrap();
        assert!(make.status.success(), "{}", String::from_utf8_lossy(&make.stderr));
        for (object, command) in objects.iter().zip(&commands) {
            let source = object.replace(".o", ".c");
            assert_eq!(
                (command.object.as_str(), command.source.as_str()),
                (*object, source.as_str())
            );
            let command = command.in_tree(view.root());
            let (dir, name) = object.rsplit_once('/').unwrap();
            let stored =
                fs::read_to_string(view.root().join(dir).join(format!(".{name}.cmd"))).unwrap();
            let stored_words: BTreeSet<String> =
                stored.lines().next().unwrap().split_whitespace().map(unquoted).collect();
            for arg in &command.args {
                for word in arg.split_whitespace() {
                    assert!(stored_words.contains(&unquoted(word)), "{word} is not in {stored}");
                }
            }
            let output = view.root().join("direct.o");
            let status = command.compile_to(&output, &[]).status().unwrap();
            assert!(status.success());
            let (direct, built) =
                (fs::read(&output).unwrap(), fs::read(view.root().join(object)).unwrap());
            assert!(direct == built, "{object} of {version} differs from Kbuild's");
            check_includers(&kbuild, &source, &stored);
        }
    }
}

fn unquoted(word: &str) -> String {
    word.chars().filter(|c| !matches!(c, '\\' | '\'' | '"')).collect()
}

/// Each header that the compiler read must name the source as an includer.
fn check_includers(kbuild: &Kbuild, source: &str, stored: &str) {
    let (_, deps) = stored.split_once("deps_").unwrap();
    let headers: Vec<&str> = deps
        .split_whitespace()
        .map(|word| word.trim_start_matches("./"))
        .filter(|word| word.ends_with(".h") && !word.starts_with('/') && !word.contains('('))
        .collect();
    assert!(headers.len() > 300);
    // The commonest headers cost the most to ask for; a sample of them, and all near ones.
    let near = |header: &str| !header.starts_with("include/");
    let sample = headers.iter().enumerate().filter(|(i, h)| i % 100 == 0 || near(h));
    for (_, header) in sample.take(15) {
        let found = kbuild.includers(&[PathBuf::from(header)]).unwrap();
        assert!(found.contains(&PathBuf::from(source)), "{source} reads {header}");
    }
}

#[test]
fn generated_sources_are_there_when_the_command_is() {
    let prepared = prepared(VERSIONS[0]);
    let kbuild = prepared.kbuild().unwrap();
    let commands = kbuild.compile_commands(&["lib/crc32.o"]).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let status = commands[0].compile_to(&dir.path().join("crc32.o"), &[]).status().unwrap();
    assert!(status.success());
    let error = kbuild.compile_commands(&["kernel/kcsan/nothing.o"]).unwrap_err().to_string();
    assert!(error.contains("nothing.o"), "{error}");
}

#[test]
fn a_view_changes_nothing_but_itself() {
    let prepared = prepared(VERSIONS[0]);
    let dir = tempfile::tempdir().unwrap();
    let new = dir.path().join("new.c");
    fs::write(&new, "int changed;\n").unwrap();
    let path = |p: &str| PathBuf::from(p);
    let before = fs::read(prepared.root().join("fs/pipe.c")).unwrap();
    let view = prepared
        .view(&[
            (path("fs/pipe.c"), Some(new.clone())),
            (path("fs/brand/new.c"), Some(new.clone())),
            (path("fs/open.c"), None),
        ])
        .unwrap();
    let root = view.root().to_owned();
    assert_eq!(fs::read(root.join("fs/pipe.c")).unwrap(), b"int changed;\n");
    assert!(root.join("fs/brand/new.c").exists() && !root.join("fs/open.c").exists());
    assert_eq!(fs::read(prepared.root().join("fs/pipe.c")).unwrap(), before);
    assert!(prepared.root().join("fs/open.c").exists());
    assert!(!prepared.root().join("fs/brand").exists());
    // A symlink in the tree does not lead out of the view.
    assert!(!fs::symlink_metadata(root.join("fs")).unwrap().is_symlink());
    drop(view);
    assert!(!root.exists());
    for bad in ["../x", "/etc/x", "", "a/../b"] {
        assert!(prepared.view(&[(path(bad), Some(new.clone()))]).is_err(), "{bad}");
    }
}

#[test]
fn a_config_of_another_source_is_refused() {
    let (cache, kernel) = kernel(&Manifest::builtin().unwrap(), VERSIONS[0]);
    let (_, other) = self::kernel(&Manifest::builtin().unwrap(), VERSIONS[1]);
    let config = cache.image(&other).unwrap().config;
    let error = cache.prepared(&SourceId::Deb(&kernel), &config, &other.release).unwrap_err();
    let text = error.to_string();
    assert!(text.contains("configuration") && text.contains("CONFIG_"), "{text}");
    let nothing = tempfile::tempdir().unwrap();
    let error = cache.prepared(&SourceId::Dir(nothing.path()), &config, "x").unwrap_err();
    assert!(error.to_string().contains("not a kernel source tree"), "{error}");
}
