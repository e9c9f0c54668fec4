//! Files are packed and read back; whoever alters one byte is noticed.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use bottle_pack::{Archive, File, PackError, Spec, Tree, pack, verify};
use tempfile::TempDir;

const AMD64: &str = "linux/amd64";

/// A root with every kind of entry, made in the order of `names`.
fn root(names: &[&str]) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    for name in names {
        fs::create_dir_all(dir.path().join(name)).unwrap();
        fs::write(dir.path().join(name).join("file"), name.repeat(1000)).unwrap();
    }
    let long = dir.path().join("a").join("x".repeat(90)).join("y".repeat(90));
    fs::create_dir_all(&long).unwrap();
    fs::write(long.join("deep"), "deep").unwrap();
    fs::hard_link(dir.path().join("a/file"), dir.path().join("b/linked")).unwrap();
    symlink("../a/file", dir.path().join("b/symlink")).unwrap();
    fs::set_permissions(dir.path().join("b/file"), fs::Permissions::from_mode(0o1755)).unwrap();
    dir
}

fn packed(root: &Path) -> (TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.smolmachine");
    pack(&[&Tree(root.to_owned())], &Spec::of_bottle("x", AMD64), fs::File::create(&path).unwrap())
        .unwrap();
    (dir, path)
}

#[test]
fn the_same_tree_gives_the_same_bytes_wherever_it_is() {
    let (first, second) = (root(&["a", "b", "c"]), root(&["c", "b", "a"]));
    let other = filetime_of(second.path());
    // A store that is copied loses its hard links, and one that is optimised gets new ones.
    fs::remove_file(second.path().join("b/linked")).unwrap();
    fs::copy(second.path().join("a/file"), second.path().join("b/linked")).unwrap();
    let ((_one, first), (_two, second)) = (packed(first.path()), packed(second.path()));
    assert_eq!(fs::read(&first).unwrap(), fs::read(&second).unwrap());
    assert!(verify(&first, AMD64).is_ok(), "{other:?}");
}

/// Another time, so that it would show.
fn filetime_of(root: &Path) -> std::time::SystemTime {
    let file = fs::File::options().append(true).open(root.join("a/file")).unwrap();
    let time = std::time::SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(1_000_000);
    file.set_modified(time).unwrap();
    time
}

#[test]
fn a_layer_holds_what_the_tree_holds() {
    let root = root(&["a", "b"]);
    let mut tar = Vec::new();
    bottle_pack::Layer::write(&Tree(root.path().to_owned()), &mut tar).unwrap();
    let mut archive = tar::Archive::new(&tar[..]);
    let mut seen = Vec::new();
    for entry in archive.entries().unwrap() {
        let entry = entry.unwrap();
        let (header, path) = (entry.header(), entry.path().unwrap().to_string_lossy().into_owned());
        assert_eq!(
            (header.uid().unwrap(), header.gid().unwrap(), header.mtime().unwrap()),
            (0, 0, 1),
            "{path}"
        );
        seen.push((path, header.entry_type(), header.mode().unwrap()));
    }
    let kind = |name: &str| {
        seen.iter().find(|(path, ..)| path == name).map(|(_, kind, mode)| (*kind, *mode))
    };
    assert_eq!(kind("b/linked"), Some((tar::EntryType::Regular, 0o644)));
    assert_eq!(kind("b/symlink").map(|(k, _)| k), Some(tar::EntryType::Symlink));
    assert_eq!(kind("b/file"), Some((tar::EntryType::Regular, 0o1755)));
    assert!(seen.iter().any(|(path, ..)| path.ends_with("/deep") && path.len() > 180), "{seen:?}");
}

#[test]
fn every_altered_byte_is_noticed() {
    let root = root(&["a", "b"]);
    let (_dir, path) = packed(root.path());
    let whole = fs::read(&path).unwrap();
    for at in (0..whole.len()).step_by(97).chain(whole.len() - 64..whole.len() - 8) {
        // The footer's stub size is not used, as there is no stub.
        if (whole.len() - 52..whole.len() - 44).contains(&at) {
            continue;
        }
        let mut altered = whole.clone();
        altered[at] ^= 0x10;
        fs::write(&path, &altered).unwrap();
        assert!(verify(&path, AMD64).is_err(), "byte {at} of {}", whole.len());
    }
    for end in [0, 1, 63, 64, whole.len() / 2, whole.len() - 1] {
        fs::write(&path, &whole[..end]).unwrap();
        assert!(matches!(verify(&path, AMD64), Err(PackError::Truncated(_))), "cut at {end}");
    }
    fs::write(&path, &whole).unwrap();
    assert!(verify(&path, AMD64).is_ok());
}

#[test]
fn another_platform_and_a_newer_format_are_refused_by_name() {
    let root = root(&["a", "b"]);
    let (_dir, path) = packed(root.path());
    assert!(
        matches!(verify(&path, "linux/arm64"), Err(PackError::Platform { found, .. }) if found == AMD64)
    );
    let mut newer = fs::read(&path).unwrap();
    let at = newer.len() - 64 + 8;
    newer[at] = 9;
    fs::write(&path, &newer).unwrap();
    assert!(matches!(verify(&path, AMD64), Err(PackError::Version { found: 9, known: 1 })));
}

#[test]
fn a_socket_is_refused() {
    let root = root(&["a", "b"]);
    let _socket = std::os::unix::net::UnixListener::bind(root.path().join("s")).unwrap();
    let refused =
        pack(&[&Tree(root.path().to_owned())], &Spec::of_bottle("x", AMD64), std::io::sink());
    assert!(matches!(refused, Err(PackError::Source { .. })));
}

/// What `docker save` writes, with `layer` as its one layer; `diff` is what the configuration says
/// it is.
fn saved(layer: &[u8], diff: &str, architecture: &str) -> (TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let config = format!(
        r#"{{"architecture":"{architecture}","os":"linux","config":{{"Env":["A=b"],"WorkingDir":"/w"}},"rootfs":{{"type":"layers","diff_ids":["{diff}"]}}}}"#
    );
    let path = dir.path().join("image.tar");
    let mut tar = tar::Builder::new(fs::File::create(&path).unwrap());
    for (name, content) in [
        ("layer.tar", layer),
        ("config.json", config.as_bytes()),
        ("manifest.json", br#"[{"Config":"config.json","Layers":["layer.tar"]}]"#),
    ] {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        tar.append_data(&mut header, name, content).unwrap();
    }
    tar.finish().unwrap();
    (dir, path)
}

fn layer() -> (TempDir, Vec<u8>, String) {
    let root = root(&["a", "b"]);
    let tree = Tree(root.path().to_owned());
    let mut tar = Vec::new();
    bottle_pack::Layer::write(&tree, &mut tar).unwrap();
    let digest = format!("sha256:{}", hex::encode(bottle_pack::Layer::measure(&tree).unwrap().0));
    (root, tar, digest)
}

#[test]
fn a_saved_image_is_packed_with_a_file_over_it() {
    use std::io::Write;
    let (root, tar, digest) = layer();
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(&tar).unwrap();
    for content in [tar, gzip.finish().unwrap()] {
        let (dir, path) = saved(&content, &digest, "amd64");
        let archive = Archive::open(&path, AMD64).unwrap();
        assert_eq!(
            (&archive.env[..], archive.workdir.as_deref()),
            (&["A=b".to_owned()][..], Some("/w"))
        );
        let own = File { from: root.path().join("a/file"), to: "usr/lib/own".into(), mode: 0o755 };
        let layers: Vec<&dyn bottle_pack::Layer> =
            archive.layers().chain([&own as &dyn bottle_pack::Layer]).collect();
        let out = dir.path().join("out");
        pack(&layers, &Spec::of_bottle("x", AMD64), fs::File::create(&out).unwrap()).unwrap();
        let manifest = verify(&out, AMD64).unwrap();
        assert_eq!((manifest.assets.layers.len(), &manifest.assets.layers[0].digest), (2, &digest));
    }
}

#[test]
fn a_saved_image_that_is_not_what_it_says_is_refused() {
    let (_root, tar, digest) = layer();
    let (_dir, path) = saved(&tar, &format!("sha256:{}", "0".repeat(64)), "amd64");
    assert!(
        matches!(Archive::open(&path, AMD64), Err(PackError::Source { why, .. }) if why.contains("altered"))
    );
    let (_dir, path) = saved(&tar, &digest, "arm64");
    assert!(matches!(Archive::open(&path, AMD64), Err(PackError::Platform { .. })));
    let (_dir, path) = saved(&tar, &digest, "amd64");
    fs::write(&path, &fs::read(&path).unwrap()[..2048]).unwrap();
    assert!(Archive::open(&path, AMD64).is_err());
    assert!(matches!(Archive::open(Path::new("/no/such/file"), AMD64), Err(PackError::Io { .. })));
}
