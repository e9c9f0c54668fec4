//! What is true of the bottle and not of one client.

use super::{TOKEN, World};
use crate::support::{assert_code, stdout};

pub type Case = (&'static str, fn(&World<'_>));

pub const CASES: &[Case] = &[
    ("a_refused_path_shows_its_reason_to_the_user", reason),
    ("a_refused_upload_shows_its_reason_to_the_user", upload_reason),
    ("the_system_trusts_the_ca_without_any_variable", system),
    ("the_guest_has_no_token", no_token),
];

fn reason(world: &World<'_>) {
    for version in ["--http1.1", "--http2"] {
        let refused =
            stdout(&world.sh(&format!("curl -s {version} https://api.clients.test/secret")));
        assert!(
            refused.contains(
                "no route for api.clients.test:443 allows GET /secret [not-allowed]\nhint: "
            ),
            "{version}: {refused}"
        );
    }
}

/// Refused before its body is read: the answer must not be lost with it. Over HTTP/2 it still is
/// (docs/clients.md).
fn upload_reason(world: &World<'_>) {
    let refused = stdout(&world.sh("head -c 5000 /dev/zero | curl -s --http1.1 --data-binary @- https://api.clients.test/secret"));
    assert!(
        refused.contains("no route for api.clients.test:443 allows POST /secret [not-allowed]"),
        "{refused}"
    );
}

/// Programs that clean their environment, such as services, find the CA where they look by
/// themselves.
fn system(world: &World<'_>) {
    let url = "https://api.clients.test/echo/system";
    let bare = "env -i PATH=$PATH https_proxy=$HTTPS_PROXY ";
    for client in [
        format!("curl -sS {url}"),
        format!(
            "python3 -c 'import urllib.request as u; print(u.urlopen(\"{url}\").read().decode())'"
        ),
        "git ls-remote https://git.clients.test/tiny.git".to_owned(),
    ] {
        assert_code(&world.sh(&format!("{bare}{client}")), 0);
    }
}

fn no_token(world: &World<'_>) {
    let output = world.home.run(&[
        "exec",
        "--root",
        "worker",
        "--",
        "bash",
        "-c",
        "env; cat /proc/*/environ /proc/*/cmdline 2>/dev/null; true",
    ]);
    assert_code(&output, 0);
    assert!(stdout(&output).contains("SSL_CERT_FILE="), "this looked nowhere");
    assert!(!stdout(&output).contains(TOKEN));
}
