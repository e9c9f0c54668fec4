//! Tars that no honest builder makes.
#![allow(clippy::unwrap_used)]
use super::*;

fn limits() -> Limits {
    Limits { entries: 10, bytes: 1000 }
}

type Raw<'a> = (EntryType, &'a str, &'a str, &'a [u8]);

/// A tar whose names are written raw, as no honest builder would.
fn tar(entries: &[Raw]) -> Vec<u8> {
    let mut out = tar::Builder::new(Vec::new());
    for (kind, path, link, data) in entries {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(*kind);
        header.set_mode(0o4755);
        header.set_size(data.len() as u64);
        header.as_old_mut().name[..path.len()].copy_from_slice(path.as_bytes());
        header.as_old_mut().linkname[..link.len()].copy_from_slice(link.as_bytes());
        header.set_cksum();
        out.append(&header, *data).unwrap();
    }
    out.into_inner().unwrap()
}

fn unpack_all(entries: &[Raw]) -> (tempfile::TempDir, Result<CopyReport, UntarError>) {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("in")).unwrap();
    let result = extract_hostile(&tar(entries)[..], &dir.path().join("in"), limits());
    (dir, result)
}

#[test]
fn files_directories_and_inner_links_arrive_without_setuid() {
    use std::os::unix::fs::PermissionsExt;
    let (dir, result) = unpack_all(&[
        (EntryType::Directory, "d/e", "", b""),
        (EntryType::Regular, "d/e/f", "", b"hello"),
        (EntryType::Symlink, "d/l", "../d/e/f", b""),
        (EntryType::Regular, "d/e/f", "", b"again"),
    ]);
    assert_eq!(result.unwrap(), CopyReport { files: 4, bytes: 10 });
    assert_eq!(std::fs::read(dir.path().join("in/d/l")).unwrap(), b"again");
    assert_eq!(
        std::fs::metadata(dir.path().join("in/d/e/f")).unwrap().permissions().mode() & 0o7777,
        0o755
    );
}

#[test]
fn every_way_out_is_refused() {
    let outside: &[&[Raw]] = &[
        &[(EntryType::Regular, "../x", "", b"x")],
        &[(EntryType::Regular, "/x", "", b"x")],
        &[(EntryType::Regular, "a/../../x", "", b"x")],
        &[(EntryType::Symlink, "l", "/etc", b"")],
        &[(EntryType::Symlink, "l", "..", b"")],
        &[(EntryType::Symlink, "l", "", b"")],
        &[(EntryType::Symlink, "d/l", "../..", b"")],
        // The second link stays inside only by its text.
        &[
            (EntryType::Symlink, "d/e/up", "../..", b""),
            (EntryType::Symlink, "out", "d/e/up/..", b""),
        ],
        // A path through a link is refused, even when the link stays inside.
        &[
            (EntryType::Directory, "d", "", b""),
            (EntryType::Symlink, "l", "d", b""),
            (EntryType::Regular, "l/x", "", b"x"),
        ],
        &[(EntryType::Symlink, "l", "d", b""), (EntryType::Directory, "l", "", b"")],
        &[(EntryType::Directory, "d", "", b""), (EntryType::Regular, "d", "", b"x")],
        &[(EntryType::Link, "h", "/etc/passwd", b"")],
        &[(EntryType::Char, "c", "", b"")],
        &[(EntryType::Block, "b", "", b"")],
        &[(EntryType::Fifo, "p", "", b"")],
        &[(EntryType::GNUSparse, "s", "", b"")],
    ];
    for entries in outside {
        let (dir, result) = unpack_all(entries);
        assert!(result.is_err(), "{entries:?}");
        let names: Vec<_> =
            std::fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(names, ["in"], "{entries:?}");
    }
}

#[test]
fn limits_hold_for_entries_bytes_and_names() {
    let many: Vec<_> = (0..11).map(|_| (EntryType::Regular, "f", "", &b""[..])).collect();
    assert!(matches!(unpack_all(&many).1, Err(UntarError::Limit(_))));
    assert!(matches!(
        unpack_all(&[(EntryType::Regular, "f", "", &[0; 1001])]).1,
        Err(UntarError::Limit(_))
    ));
    assert!(matches!(
        unpack_all(&[(EntryType::GNULongName, "f", "", &[b'a'; 5000])]).1,
        Err(UntarError::Limit(_))
    ));
    assert!(matches!(
        unpack_all(&[(EntryType::XHeader, "f", "", &[b'a'; 20000])]).1,
        Err(UntarError::Limit(_))
    ));
}

#[test]
fn a_cut_stream_is_an_error() {
    let whole = tar(&[(EntryType::Regular, "f", "", &[1; 900])]);
    let dir = tempfile::tempdir().unwrap();
    assert!(extract_hostile(&whole[..1000], dir.path(), limits()).is_err());
}

#[test]
fn a_workspace_replaces_what_is_there_and_keeps_its_links() {
    use std::os::unix::fs::MetadataExt;
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    std::fs::write(at("old"), "a longer text").unwrap();
    std::os::unix::fs::symlink("/etc/passwd", at("link")).unwrap();
    let bytes = tar(&[
        (EntryType::Regular, "a/b/one", "", b"1"),
        (EntryType::Regular, "a/b/two", "", b"2"),
        (EntryType::Regular, "old", "", b"new"),
        (EntryType::Regular, "link", "", b"no link any more"),
        (EntryType::Symlink, "a/out", "/outside", b""),
        (EntryType::Regular, "a/b/three", "", b"3"),
    ]);
    let me = std::fs::metadata(dir.path()).unwrap();
    let own = (me.uid(), me.gid());
    assert_eq!(extract_for(&bytes[..], dir.path(), own).unwrap().files, 6);
    for (name, text) in [
        ("a/b/one", "1"),
        ("a/b/two", "2"),
        ("a/b/three", "3"),
        ("old", "new"),
        ("link", "no link any more"),
    ] {
        assert_eq!(std::fs::read_to_string(at(name)).unwrap(), text, "{name}");
        let meta = std::fs::symlink_metadata(at(name)).unwrap();
        assert_eq!((meta.uid(), meta.mode() & 0o7777), (own.0, 0o755), "{name}");
    }
    assert_eq!(std::fs::read_link(at("a/out")).unwrap(), Path::new("/outside"));
    for path in ["../up", "/abs", "a/out/through"] {
        assert!(
            extract_for(&tar(&[(EntryType::Regular, path, "", b"x")])[..], dir.path(), own)
                .is_err(),
            "{path}"
        );
    }
}
