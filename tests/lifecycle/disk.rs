//! Disks that are full: the guest's, and the host's.

use std::fs;

use crate::attacks::Case;
use crate::support::{Home, assert_code, stderr, stdout};

pub const CASES: &[Case] = &[
    ("lifecycle::disk::an_agent_that_fills_it_keeps_its_work", filled),
    ("lifecycle::disk::a_workspace_that_does_not_fit_after_all_ends_the_launch", too_small),
    ("lifecycle::disk::work_that_the_host_cannot_save_stays_on_the_bottles_disk", unsaved),
];

fn home(disk: &str) -> Home {
    Home::with_manifest(&format!(
        "version = 1\n[agents.worker]\nbottle = \"dev\"\nprovider = \"command\"\ncommand = [\"sleep\", \"1000\"]\n[bottles.dev]\nimage = \"demo\"\n\
         workspace = {{ mode = \"copy\" }}\nresources = {{ disk = \"{disk}\" }}\n"
    ))
}

fn filled() {
    let home = home("256MiB");
    fs::write(home.project().join("file"), "old\n").unwrap();
    let mut bottle = home.start("worker", &["worker"]);
    bottle.wait_until_up();
    let full = bottle.sh(false, "cd; echo new > workspace/file; head -c 1G /dev/zero > fill; echo $?; echo more > workspace/more");
    assert!(
        stderr(&full).contains("No space left") && !full.status.success(),
        "{}{}",
        stdout(&full),
        stderr(&full)
    );
    // It is still a bottle: commands run, and its work is there.
    assert_code(&bottle.sh(false, "true"), 0);
    assert!(stdout(&home.run(&["diff", "worker"])).contains("+new"));
    assert_code(&home.run(&["stop", "worker"]), 0);
    bottle.wait();
    assert_code(&home.run(&["pull", "worker"]), 0);
    assert_eq!(fs::read_to_string(home.project().join("file")).unwrap(), "new\n");
}

/// Of few bytes, and yet of many blocks.
fn too_small() {
    let home = home("64MiB");
    for n in 0..20_000 {
        fs::write(home.project().join(format!("f{n}")), "x").unwrap();
    }
    let refused = home.run(&["launch", "worker", "--yes"]);
    assert_code(&refused, 4);
    assert!(
        stderr(&refused).contains("cannot be copied into the bottle")
            && stderr(&refused).contains("resources.disk"),
        "{}",
        stderr(&refused)
    );
    assert_eq!(home.leftovers("worker"), Vec::<String>::new());
}

/// The host cannot write the work, as when its disk is full: here something is in the way.
fn unsaved() {
    let home = home("256MiB");
    fs::write(home.project().join("file"), "old\n").unwrap();
    let mut bottle = home.start("worker", &["worker"]);
    bottle.wait_until_up();
    assert_code(&bottle.sh(false, "cd; echo new > workspace/file"), 0);
    let obstacle = home.state().join("bottles/worker/work.tar");
    fs::create_dir(&obstacle).unwrap();
    assert_code(&home.run(&["stop", "worker"]), 0);
    bottle.wait();
    let said = bottle.said();
    assert!(said.contains("the work is kept on the bottle's disk"), "{said}");
    assert_eq!(home.leftovers("worker"), Vec::<String>::new());
    fs::remove_dir(&obstacle).unwrap();
    // Nothing deletes the only copy without being asked, and nothing says that there is none.
    for args in [&["launch", "worker", "--yes"][..], &["rm", "worker"], &["pull", "worker"]] {
        let refused = home.run(args);
        assert_code(&refused, 2);
        assert!(stderr(&refused).contains("bottle resume worker"), "{}", stderr(&refused));
    }
    assert_eq!(fs::read_to_string(home.project().join("file")).unwrap(), "old\n");
    assert_code(&home.run(&["resume", "worker", "--yes", "--", "true"]), 0);
    assert_code(&home.run(&["pull", "worker"]), 0);
    assert_eq!(fs::read_to_string(home.project().join("file")).unwrap(), "new\n");
}
