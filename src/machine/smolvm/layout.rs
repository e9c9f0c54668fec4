//! smolvm's private directory layout, as version 1.32 has it.

use std::os::unix::fs::{FileTypeExt, MetadataExt};

use camino::{Utf8Path, Utf8PathBuf};
use fs_err as fs;
use sha2::{Digest, Sha256};

use crate::error::{Error, ErrorKind, Result};
use crate::host::fs::private_dir;
use crate::machine::image_cache::CachedImage;

/// Below its home, smolvm's directory of machines.
pub(super) const MACHINES_DIR: &str = ".cache/smolvm/vms";
/// The part of it that machines share: for each image a directory of its layers, and files about
/// it.
pub(super) const LAYER_CACHE_DIR: &str = ".cache/smolvm/vms/_shared";
/// In an image's directory, the file that says it was unpacked to its end.
pub(super) const EXTRACTED_MARKER: &str = ".smolvm-extracted";
/// In a machine's directory, the disk that takes all writes of the bottle.
pub(super) const STORAGE_DISK: &str = "storage.raw";
/// The disk that holds what smolvm changes on its own root file system.
pub(super) const OVERLAY_DISK: &str = "overlay.raw";
/// Extension of the empty file beside a disk that says it has a file system.
pub(super) const FORMATTED_EXTENSION: &str = "formatted";
/// Name of every machine: each has a state directory of its own.
pub(super) const MACHINE_NAME: &str = "bottle";
/// In our image cache, the layers of an image; they take the place of [`LAYER_CACHE_DIR`].
pub(super) const CACHED_LAYERS: &str = "image";
/// In our image cache, machines of an image as `machine create` made them.
pub(super) const CACHED_MACHINES: &str = "created";

/// Writes into `dir` the files that smolvm keeps about the unpacked image. Returns the directory of
/// its layers, and where smolvm expects it, relative to `dir`.
pub(super) fn share(image: &CachedImage, dir: &Utf8Path) -> Result<(Utf8PathBuf, Utf8PathBuf)> {
    let (from, to) = (image.dir().join(CACHED_LAYERS), dir.join(LAYER_CACHE_DIR));
    let damaged = || Error::new(ErrorKind::Engine, format!("{} is damaged", image.dir()));
    let layers =
        unpacked_image(&from).ok_or_else(|| damaged().hint(format!("rm -r {}", image.dir())))?;
    private_dir(to.join(&layers))?;
    for entry in from.read_dir_utf8()?.flatten() {
        if entry.file_type().is_ok_and(|t| t.is_file()) {
            fs::copy(entry.path(), to.join(entry.file_name()))?;
        }
    }
    Ok((from.join(&layers), Utf8Path::new(LAYER_CACHE_DIR).join(layers)))
}

/// The name of smolvm's directory for the machine `name`: the first 16 hex
/// digits of the name's SHA-256.
pub(super) fn machine_id(name: &str) -> String {
    hex::encode(&Sha256::digest(name)[..8])
}

/// The one directory in `shared`, which is named after the image's checksum.
pub(super) fn unpacked_image(shared: &Utf8Path) -> Option<String> {
    let mut dirs =
        shared.read_dir_utf8().ok()?.flatten().filter(|e| e.file_type().is_ok_and(|t| t.is_dir()));
    let (one, other) = (dirs.next(), dirs.next());
    one.filter(|_| other.is_none()).map(|e| e.file_name().to_owned())
}

/// The directories of smolvm's machines below `dir`. There should be one.
fn machines(dir: &Utf8Path) -> impl Iterator<Item = Utf8PathBuf> {
    let all = dir.join(MACHINES_DIR).read_dir_utf8();
    all.into_iter().flatten().flatten().map(|machine| machine.into_path())
}

/// Whether there is one machine below `dir`, and its disk is the file `disk`.
pub(super) fn runs_on(dir: &Utf8Path, disk: &Utf8Path) -> bool {
    let file = |path: &Utf8Path| fs::symlink_metadata(path).map(|m| (m.dev(), m.ino())).ok();
    let used: Vec<_> = machines(dir).filter_map(|m| file(&m.join(STORAGE_DISK))).collect();
    file(disk).is_some_and(|disk| used == [disk])
}

/// The console that smolvm keeps in its directory for the one machine in it.
pub(super) fn console(dir: &Utf8Path) -> Utf8PathBuf {
    let mut logs = machines(dir).map(|m| m.join("agent-console.log"));
    // The guest does not choose what this is, but it can write into it.
    logs.find(|l| {
        l.symlink_metadata().is_ok_and(|m| m.file_type().is_file() && !m.file_type().is_socket())
    })
    .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::fs::utf8;

    #[test]
    fn only_the_bottles_own_disk_will_do() {
        let temporary = tempfile::tempdir().expect("dir");
        let home = utf8("dir", temporary.path()).expect("UTF-8");
        let (dir, disk) = (home.join("machine"), home.join("disk.img"));
        let machine = |name: &str| {
            let machine = dir.join(MACHINES_DIR).join(machine_id(name));
            fs::create_dir_all(&machine).expect("a machine");
            machine.join(STORAGE_DISK)
        };
        fs::write(&disk, "disk").expect("a disk");
        assert_eq!(machine_id("m"), "62c66a7a5dd70c31");
        assert!(!runs_on(&dir, &disk), "there is no machine");
        fs::hard_link(&disk, machine("m")).expect("link");
        assert!(runs_on(&dir, &disk));
        fs::write(machine("another"), "disk").expect("a disk");
        assert!(!runs_on(&dir, &disk), "smolvm made one of its own");
    }
}
