//! Lists the project's files that go into a bottle: those that git tracks and those it does not
//! ignore.

#[cfg(test)]
mod tests;

use std::fs;
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use camino::Utf8Path;
use sha2::{Digest, Sha256};

use super::baseline::{Baseline, FileState};
use super::beneath::ProjectDir;
use super::names::is_git;
use crate::error::{Context, Error, ErrorKind, Result};
use crate::host::git::{self, Config};
use crate::humanize::size;

/// Most files in a workspace.
const MAX_FILES: usize = 200_000;
/// Deepest nesting of repositories.
const MAX_REPOSITORY_DEPTH: usize = 16;
/// Size of the copy buffer, bytes.
const BUFFER_BYTES: usize = 64 * 1024;

/// A file or link that goes in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Relative to the project.
    pub path: PathBuf,
    /// Length in bytes; 0 for a link.
    pub bytes: u64,
    /// Whether it is a symbolic link.
    pub link: bool,
}

/// What listing needs: the closure's git, the directory of an empty repository, and the project.
type Tools<'a> = (&'a Utf8Path, &'a Path, &'a ProjectDir);

/// The files that go in, as they were when they were listed for the preflight.
#[derive(Debug, Clone, Default)]
pub struct Snapshot {
    /// The project's directory on the host.
    pub root: PathBuf,
    /// Files and links, sorted.
    pub entries: Vec<Entry>,
    /// Files that were left out, and why.
    pub left_out: Vec<(PathBuf, &'static str)>,
    /// Length of all files together, bytes.
    pub bytes: u64,
    /// Whether the project is a git repository.
    pub repository: bool,
}

impl Snapshot {
    /// Lists the project in `root` with the closure's `git`. Sockets, devices and unreadable files
    /// are left out.
    ///
    /// # Errors
    /// `Config` when it cannot be listed, or holds too many files.
    pub fn of(git: &Utf8Path, root: &Path) -> Result<Self> {
        let mut found = Self {
            root: root.to_owned(),
            repository: root.join(".git").exists(),
            ..Self::default()
        };
        let empty =
            tempfile::tempdir().context(ErrorKind::Io, || "cannot make a directory".into())?;
        let project = ProjectDir::open(root)
            .context(ErrorKind::Config, || format!("cannot open {}", root.display()))?;
        found.list((git, empty.path(), &project), Path::new(""), 0)?;
        found.entries.sort_by(|a, b| a.path.cmp(&b.path));
        found.entries.dedup_by(|a, b| a.path == b.path);
        found.bytes = found.entries.iter().map(|e| e.bytes).sum();
        Ok(found)
    }

    /// Adds the files in the directory `below` (relative to the root), which may be a repository of
    /// its own.
    fn list(&mut self, with: Tools<'_>, below: &Path, depth: usize) -> Result<()> {
        let (git, empty, _) = with;
        let dir = self.root.join(below);
        let what = || format!("cannot list the workspace {}", dir.display());
        let command = git::command(git, &dir, Config::Project);
        let repository = self.is_repository(git, &dir);
        if !repository && dir.join(".git").exists() {
            let why = "git cannot read this repository, so tracked files that are ignored stay out";
            self.left_out.push((below.join(".git"), why));
        }
        let command = if repository {
            command.args(["ls-files", "-z", "--cached"])
        } else {
            // Outside of a repository, an empty one provides the rules.
            let init = git::command(git, empty, Config::Repository);
            git::run(init.args(["init", "-q", "--bare", "."]), what)?;
            let command = command.arg("--git-dir").arg(empty).args(["--work-tree", "."]);
            command.args(["ls-files", "-z"])
        };
        let names = git::run(command.args(["--others", "--exclude-standard"]), what)?;
        for name in names.split(|b| *b == 0).filter(|n| !n.is_empty()) {
            let path = below.join(Path::new(std::ffi::OsStr::from_bytes(name)));
            let path: PathBuf = path.components().collect();
            self.add(with, path, depth)?;
        }
        Ok(())
    }

    fn is_repository(&self, git: &Utf8Path, dir: &Path) -> bool {
        let command = git::command(git, dir, Config::Project);
        git::run(command.args(["rev-parse", "--show-prefix"]), String::new).is_ok()
    }

    fn add(&mut self, with: Tools<'_>, path: PathBuf, depth: usize) -> Result<()> {
        if path.components().any(|c| c.as_os_str().to_str().is_some_and(is_git)) {
            return Ok(());
        }
        let on_host = self.root.join(&path);
        let meta = match with.2.look(&path).and_then(|file| file.metadata()) {
            Ok(meta) => meta,
            Err(e) if e.raw_os_error() == Some(nix::libc::ELOOP) => {
                self.left_out.push((path, "behind a symbolic link"));
                return Ok(());
            }
            Err(_) => return Ok(()), // deleted, but still in the index
        };
        let kind = meta.file_type();
        let mut out = |why| self.left_out.push((path.clone(), why));
        if path.to_str().is_none() {
            out("its name is not UTF-8");
            return Ok(());
        }
        if kind.is_dir() {
            // A submodule, or a repository inside this one: each has ignore rules of its own.
            if depth < MAX_REPOSITORY_DEPTH {
                return self.list(with, &path, depth + 1);
            }
            out("too deep");
            return Ok(());
        }
        if kind.is_socket() || kind.is_fifo() {
            out("a socket or pipe");
        } else if kind.is_block_device() || kind.is_char_device() {
            out("a device");
        } else if kind.is_symlink() {
            self.entries.push(Entry { path, bytes: 0, link: true });
        } else if nix::unistd::access(&on_host, nix::unistd::AccessFlags::R_OK).is_err() {
            out("not readable");
        } else {
            self.entries.push(Entry { path, bytes: meta.len(), link: false });
        }
        if self.entries.len() > MAX_FILES {
            return Err(Error::new(
                ErrorKind::Config,
                format!("the workspace {} has more than {MAX_FILES} files", self.root.display()),
            )
            .hint("add what the agent does not need to .gitignore"));
        }
        Ok(())
    }

    /// Files that were listed and are not in `packed`, because they were gone, unreadable or no
    /// files any more when they were copied.
    #[must_use]
    pub fn missing_from(&self, packed: &Baseline) -> Vec<&Path> {
        let packed = |path: &Path| path.to_str().is_some_and(|p| packed.files.contains_key(p));
        self.entries.iter().map(|e| e.path.as_path()).filter(|path| !packed(path)).collect()
    }

    /// Refuses a workspace that does not fit into the bottle's disk of `disk` bytes.
    ///
    /// # Errors
    /// `Config`, with the largest files.
    pub fn fits(&self, disk: u64) -> Result<()> {
        if self.bytes <= disk / 4 * 3 {
            return Ok(());
        }
        let mut largest: Vec<&Entry> = self.entries.iter().collect();
        largest.sort_by_key(|e| std::cmp::Reverse(e.bytes));
        let named = largest
            .iter()
            .take(3)
            .map(|e| format!("{} ({})", e.path.display(), size(e.bytes)))
            .collect::<Vec<_>>()
            .join(", ");
        Err(Error::new(
            ErrorKind::Config,
            format!(
                "the workspace has {}, too much for the bottle's disk; the largest: {named}",
                size(self.bytes)
            ),
        )
        .hint("add what the agent does not need to .gitignore, or set resources.disk"))
    }

    /// One line for the preflight.
    #[must_use]
    pub fn summary(&self) -> String {
        let files = self.entries.len();
        format!("{files} file{}, {}", if files == 1 { "" } else { "s" }, size(self.bytes))
    }

    /// Files whose names suggest that they hold credentials.
    #[must_use]
    pub fn credentials(&self) -> Vec<&Path> {
        let looks = |path: &Path| {
            let name =
                path.file_name().map(|n| n.to_string_lossy().to_lowercase()).unwrap_or_default();
            let plain = |suffix: &str| name.ends_with(suffix);
            matches!(
                &*name,
                ".env"
                    | ".npmrc"
                    | ".pypirc"
                    | ".netrc"
                    | "credentials.json"
                    | "id_rsa"
                    | "id_ed25519"
                    | "id_ecdsa"
            ) || (name.starts_with(".env.")
                && !plain(".example")
                && !plain(".sample")
                && !plain(".template"))
                || (plain(".pem") && name.contains("key"))
                || [".key", ".p12", ".pfx", ".jks"].iter().any(|s| plain(s))
        };
        self.entries.iter().map(|e| e.path.as_path()).filter(|p| looks(p)).collect()
    }

    /// Writes all files as tar, and returns a list of those that went in. A file that is gone or
    /// unreadable by now is left out.
    ///
    /// # Errors
    /// `out` cannot be written.
    pub fn pack<W: Write>(&self, out: W) -> io::Result<Baseline> {
        let mut tar = tar::Builder::new(io::BufWriter::with_capacity(BUFFER_BYTES, out));
        let project = ProjectDir::open(&self.root)?;
        let mut baseline = Baseline::new(&self.root);
        let mut buffer = vec![0; BUFFER_BYTES];
        for entry in &self.entries {
            let Some(key) = entry.path.to_str() else { continue };
            if entry.link {
                let Ok(target) = project.link(&entry.path) else { continue };
                let mut header = tar::Header::new_gnu();
                header.set_entry_type(tar::EntryType::Symlink);
                header.set_size(0);
                header.set_mode(0o777);
                tar.append_link(&mut header, &entry.path, &target)?;
                baseline
                    .files
                    .insert(key.to_owned(), FileState::Link(target.to_string_lossy().into_owned()));
                continue;
            }
            let Ok(mut file) = project.read(&entry.path) else { continue };
            let meta = file.metadata()?;
            if !meta.is_file() {
                continue;
            }
            let executable = meta.mode() & 0o100 != 0;
            let mut header = tar::Header::new_gnu();
            header.set_size(meta.len());
            header.set_mode(if executable { 0o755 } else { 0o644 });
            header.set_mtime(u64::try_from(meta.mtime()).unwrap_or(0));
            let mut hashed = Hashed {
                file: &mut file,
                digest: Sha256::new(),
                left: meta.len(),
                buffer: &mut buffer,
            };
            tar.append_data(&mut header, &entry.path, &mut hashed)?;
            baseline.files.insert(
                key.to_owned(),
                FileState::File { sha256: hex::encode(hashed.digest.finalize()), executable },
            );
        }
        tar.into_inner()?.flush()?;
        Ok(baseline)
    }
}

/// A file whose length is in the tar header already: if it has shrunk, zeros follow; if it has
/// grown, the rest is cut off.
struct Hashed<'a> {
    file: &'a mut fs::File,
    digest: Sha256,
    left: u64,
    buffer: &'a mut [u8],
}

impl io::Read for Hashed<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let most =
            out.len().min(self.buffer.len()).min(usize::try_from(self.left).unwrap_or(usize::MAX));
        if most == 0 {
            return Ok(0);
        }
        let mut n = self.file.read(&mut out[..most])?;
        if n == 0 {
            out[..most].fill(0);
            n = most;
        }
        self.digest.update(&out[..n]);
        self.left -= n as u64;
        Ok(n)
    }
}
