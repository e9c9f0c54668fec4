//! Tests of `snapshot`.

use super::*;

fn git(dir: &Path, args: &[&str]) {
    let settings = ["user.name=x", "user.email=x@x.test", "init.defaultBranch=main"];
    let command = settings.iter().fold(
        git::command(Utf8Path::new("/usr/bin/git"), dir, Config::Repository),
        |command, setting| command.args(["-c", setting]),
    );
    let command = command.args(args).env("GIT_ALLOW_PROTOCOL", "file"); // of submodules
    git::run(command, || format!("{args:?}")).unwrap();
}

fn write(path: &Path, text: &str) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
}

fn names(snapshot: &Snapshot) -> Vec<String> {
    snapshot.entries.iter().map(|e| e.path.display().to_string()).collect()
}

#[test]
fn what_is_no_file_stays_out_and_what_has_two_cases_goes_in() {
    use nix::sys::stat::Mode;
    let (dir, program) = (tempfile::tempdir().unwrap(), Utf8Path::new("/usr/bin/git"));
    let at = |name: &str| dir.path().join(name);
    write(&at("Makefile"), "a");
    write(&at("makefile"), "b");
    write(&at("deep/er/file"), "c");
    let sparse = fs::File::create(at("sparse")).unwrap();
    sparse.set_len(5 << 30).unwrap();
    std::os::unix::fs::symlink("/etc/passwd", at("link")).unwrap();
    nix::unistd::mkfifo(&at("pipe"), Mode::S_IRWXU).unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(at("socket")).unwrap();
    // Only root can make one, and reads everything.
    let made = nix::sys::stat::mknod(
        &at("device"),
        nix::sys::stat::SFlag::S_IFCHR,
        Mode::S_IRWXU,
        nix::sys::stat::makedev(1, 3),
    )
    .is_ok();
    for repository in [false, true] {
        if repository {
            git(dir.path(), &["init", "-q"]);
        }
        let found = Snapshot::of(program, dir.path()).unwrap();
        assert_eq!(names(&found), ["Makefile", "deep/er/file", "link", "makefile", "sparse"]);
        let out: Vec<_> =
            found.left_out.iter().map(|(path, why)| format!("{}: {why}", path.display())).collect();
        // git itself does not list what it could not keep.
        assert!(
            out.iter().all(|o| [
                "pipe: a socket or pipe",
                "socket: a socket or pipe",
                "device: a device"
            ]
            .contains(&o.as_str())),
            "{out:?} {made}"
        );
        assert!(found.fits(10 << 30).is_ok());
        let refused = found.fits(5 << 30).unwrap_err().to_string();
        assert!(refused.contains("sparse (5.3 GB)"), "{refused}");
    }
    // A file that has become a pipe since it was listed blocks nobody and is left out.
    let found = Snapshot::of(program, dir.path()).unwrap();
    fs::remove_file(at("sparse")).unwrap();
    nix::unistd::mkfifo(&at("sparse"), Mode::S_IRWXU).unwrap();
    let kept = found.pack(io::sink()).unwrap();
    assert_eq!(
        kept.files.keys().collect::<Vec<_>>(),
        ["Makefile", "deep/er/file", "link", "makefile"]
    );
    assert_eq!(found.missing_from(&kept), [Path::new("sparse")]);
}

#[test]
fn a_name_that_is_not_utf_8_is_listed_as_left_out() {
    let dir = tempfile::tempdir().unwrap();
    write(&dir.path().join("file"), "a");
    write(&dir.path().join("caf\u{e9}"), "b");
    let odd = std::ffi::OsStr::from_bytes(b"caf\xe9");
    // Some file systems refuse such a name; then there is nothing to leave out.
    if fs::write(dir.path().join(odd), "c").is_err() {
        return;
    }
    let found = Snapshot::of(Utf8Path::new("/usr/bin/git"), dir.path()).unwrap();
    assert_eq!(names(&found), ["caf\u{e9}", "file"]);
    assert_eq!(found.left_out, [(PathBuf::from(odd), "its name is not UTF-8")]);
    assert_eq!(found.bytes, 2, "it is not counted");
    let packed = found.pack(io::sink()).unwrap();
    assert!(packed.files.len() == 2 && found.missing_from(&packed).is_empty());
}

#[test]
fn a_repository_of_another_user_gives_its_ignored_tracked_files_and_a_broken_one_is_named() {
    let dir = tempfile::tempdir().unwrap();
    write(&dir.path().join(".gitignore"), "ignored\n");
    write(&dir.path().join("ignored"), "tracked all the same");
    git(dir.path(), &["init", "-q"]);
    git(dir.path(), &["add", "-f", "ignored", ".gitignore"]);
    // Only root can give it away; the test of host/git.rs shows the same without.
    let _ = std::os::unix::fs::lchown(dir.path().join(".git"), Some(4711), None);
    let _ = std::os::unix::fs::lchown(dir.path(), Some(4711), None);
    let of = || Snapshot::of(Utf8Path::new("/usr/bin/git"), dir.path()).unwrap();
    let found = of();
    assert_eq!(names(&found), [".gitignore", "ignored"]);
    assert_eq!(found.left_out, []);
    fs::write(dir.path().join(".git/HEAD"), "no repository").unwrap();
    let found = of();
    assert_eq!(names(&found), [".gitignore"]);
    assert!(
        found.left_out[0].0 == Path::new(".git")
            && found.left_out[0].1.contains("git cannot read this repository"),
        "{:?}",
        found.left_out
    );
}

#[test]
fn a_dirty_submodule_goes_in_as_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let (lib, project) = (dir.path().join("lib"), dir.path().join("project"));
    write(&lib.join("kept"), "old");
    write(&lib.join(".gitignore"), "ignored\n");
    for repository in [&lib, &project] {
        fs::create_dir_all(repository).unwrap();
        git(repository, &["init", "-q"]);
    }
    git(&lib, &["add", "-A"]);
    git(&lib, &["commit", "-qm", "lib"]);
    git(&project, &["submodule", "add", "-q", lib.to_str().unwrap(), "vendor/lib"]);
    write(&project.join("vendor/lib/kept"), "changed, in no commit");
    write(&project.join("vendor/lib/new"), "in no index");
    write(&project.join("vendor/lib/ignored"), "by the submodule's own rules");
    let found = Snapshot::of(Utf8Path::new("/usr/bin/git"), &project).unwrap();
    assert_eq!(
        names(&found),
        [".gitmodules", "vendor/lib/.gitignore", "vendor/lib/kept", "vendor/lib/new"]
    );
    let mut packed = Vec::new();
    found.pack(&mut packed).unwrap();
    assert!(memchr::memmem::find(&packed, b"changed, in no commit").is_some());
}

/// An index names `link/secret`, and `link` leads out of the project.
#[test]
fn a_file_behind_a_link_stays_out_of_the_list_and_of_the_copy() {
    let dir = tempfile::tempdir().unwrap();
    let outside = tempfile::tempdir().unwrap();
    write(&outside.path().join("secret"), "outside");
    let root = dir.path().join("project");
    write(&root.join("link/secret"), "inside");
    git(&root, &["init", "-q"]);
    git(&root, &["add", "-A"]);
    let before = Snapshot::of(Utf8Path::new("/usr/bin/git"), &root).unwrap();
    assert_eq!(before.entries.len(), 1, "it is a file of the project");
    fs::remove_dir_all(root.join("link")).unwrap();
    std::os::unix::fs::symlink(outside.path(), root.join("link")).unwrap();
    let read = fs::read_to_string(root.join("link/secret")).unwrap();
    assert_eq!(read, "outside", "negative control: by its path it can be read");
    let after = Snapshot::of(Utf8Path::new("/usr/bin/git"), &root).unwrap();
    assert!(after.entries.iter().all(|e| e.path != Path::new("link/secret")), "{after:?}");
    assert!(after.left_out.iter().any(|(_, why)| *why == "behind a symbolic link"));
    let mut tar = Vec::new();
    let packed = before.pack(&mut tar).unwrap(); // listed before the link was there
    assert!(packed.files.is_empty() && !tar.windows(7).any(|w| w == b"outside"));
}
