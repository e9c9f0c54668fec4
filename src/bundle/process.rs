//! Daemons as confined processes of the host user.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::path::Path;

use camino::Utf8Path;
use fs_err as fs;
use fs_err::os::unix::fs::OpenOptionsExt;

use super::original::Original;
use super::shared::{Bundle, BundleRuntime, BundleSpec, GateSpec};
use crate::closure::Closure;
use crate::error::{Context, ErrorKind, Result};
use crate::host::fs::write_private;
use crate::host::process::{Daemon, Program};
use crate::state::{BottleDir, Journal};

/// Files of the system that a Python program needs to speak TLS with the internet, where they
/// exist.
const SYSTEM_FILES: &[&str] = &[
    "/etc/resolv.conf",
    "/etc/hosts",
    "/etc/nsswitch.conf",
    "/etc/gai.conf",
    "/etc/host.conf",
    "/etc/services",
    "/etc/localtime",
    "/etc/ssl",
    "/etc/pki",
    "/etc/ca-certificates",
    "/etc/static/ssl",
    "/usr/share/ca-certificates",
    "/usr/local/share/ca-certificates",
    "/var/lib/ca-certificates",
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
];

/// Runs the closure's `bottle-bundle` on the host; each daemon confines itself before it listens.
#[derive(Debug)]
pub struct HostProcesses<'a>(pub &'a Closure);

impl BundleRuntime for HostProcesses<'_> {
    async fn spawn(&self, spec: BundleSpec<'_>, journal: &mut Journal) -> Result<Bundle> {
        let policy = spec.dir.runtime().join("policy.json");
        let json = serde_json::to_vec(spec.policy)
            .context(ErrorKind::Internal, || "cannot write the policy".into())?;
        write_private(&policy, &json)?;
        let program = match Original::find(spec.chain, spec.policy)? {
            None => Program::new("egress", &self.0.bundle.binary.path).arg("egress"),
            Some(original) => self.original(&original, &spec)?,
        };
        let program = program
            .arg("--socket")
            .arg(spec.dir.daemon_socket("egress"))
            .arg("--policy")
            .arg(&policy)
            .arg("--audit")
            .arg(spec.dir.audit())
            .args(["--slug", spec.dir.slug(), "--parent", &std::process::id().to_string()]);
        let mut egress = program.spawn(&spec.dir.log("egress"), journal)?;
        egress.hand_over(&spec.egress).await?;
        let mut daemons = vec![egress];
        if let Some(gate) = &spec.gate {
            daemons.push(self.git_gate(gate, spec.dir, journal).await?);
        }
        if spec.supervise {
            daemons.push(self.supervise(&spec, &policy, journal).await?);
        }
        Ok(Bundle { daemons })
    }
}

impl HostProcesses<'_> {
    async fn git_gate(
        &self,
        gate: &GateSpec,
        dir: &BottleDir,
        journal: &mut Journal,
    ) -> Result<Daemon> {
        let policy = dir.runtime().join("git-policy.json");
        let json = serde_json::to_vec(&gate.policy)
            .context(ErrorKind::Internal, || "cannot write git-gate's policy".into())?;
        write_private(&policy, &json)?;
        let tools = &self.0.tools;
        let program = Program::new("git-gate", &self.0.bundle.binary.path).arg("git-gate");
        let paths = [
            ("--socket", &dir.daemon_socket("git-gate")),
            ("--policy", &policy),
            ("--audit", &dir.git_audit()),
            ("--state", &dir.git()),
            ("--git", &tools.git.path),
            ("--ssh", &tools.ssh.path),
            ("--gitleaks", &tools.gitleaks.path),
        ];
        let program = paths
            .into_iter()
            .fold(program, |program, (option, path)| program.arg(option).arg(path));
        let program =
            program.args(["--slug", dir.slug(), "--parent", &std::process::id().to_string()]);
        let mut daemon = program.spawn(&dir.log("git-gate"), journal)?;
        daemon.hand_over(&gate.input).await?;
        Ok(daemon)
    }

    async fn supervise(
        &self,
        spec: &BundleSpec<'_>,
        policy: &Utf8Path,
        journal: &mut Journal,
    ) -> Result<Daemon> {
        let dir = spec.dir;
        let mut program = Program::new("supervise", &self.0.bundle.binary.path).arg("supervise");
        program =
            program.arg("--socket").arg(dir.daemon_socket("supervise")).arg("--policy").arg(policy);
        let mut logs = vec![dir.audit()];
        if spec.gate.is_some() {
            program = program.arg("--git-policy").arg(dir.runtime().join("git-policy.json"));
            logs.push(dir.git_audit());
        }
        program = program.args([
            "--slug",
            dir.slug(),
            "--parent",
            &std::process::id().to_string(),
            "--audit",
        ]);
        for log in &logs {
            touch(log)?; // the daemon is confined to files that exist
            program = program.arg(log);
        }
        let mut daemon = program.spawn(&dir.log("supervise"), journal)?;
        daemon.hand_over(&serde_json::Map::new()).await?;
        Ok(daemon)
    }

    /// `bottle-bundle confine … -- bottle-egress-mitmproxy`. mitmproxy cannot listen on a Unix socket,
    /// so it inherits one.
    fn original(&self, original: &Original, spec: &BundleSpec<'_>) -> Result<Program> {
        let socket = spec.dir.daemon_socket("egress");
        let mut program = Program::new("egress", &self.0.bundle.binary.path);
        let listener = program.keep_fd(listen(&socket)?.into());
        let audit = spec.dir.audit();
        touch(&audit)?; // the daemon is confined to files that exist

        // pipelock listens on loopback, because mitmproxy can only reach another proxy by TCP.
        let network = if original.pipelock.is_some() { "--inet" } else { "--outgoing" };
        program =
            program.arg("confine").arg(network).args(["--parent", &std::process::id().to_string()]);
        program = program.args(["--keep-fd", &listener.to_string()]);
        for path in SYSTEM_FILES.iter().map(Path::new).filter(|p| p.exists()) {
            program = program.arg("--ro").arg(path);
        }
        for path in [Some(&original.root), original.pipelock.as_ref()].into_iter().flatten() {
            program = program.arg("--rx").arg(path);
        }
        program = program
            .arg("--rw")
            .arg(spec.dir.runtime())
            .arg("--rw")
            .arg(&audit)
            .arg("--")
            .arg(&original.program);
        program = program.args(["--listen-fd", &listener.to_string()]);
        Ok(match &original.pipelock {
            Some(pipelock) => program.arg("--pipelock").arg(pipelock),
            None => program,
        })
    }
}

/// Creates a log that does not exist yet.
fn touch(log: &Utf8Path) -> Result<()> {
    fs::OpenOptions::new().create(true).append(true).mode(0o600).open(log)?;
    Ok(())
}

/// The daemon's socket, in a directory that is private.
fn listen(path: &Utf8Path) -> Result<UnixListener> {
    // The bottle is locked, so a socket there belongs to a daemon that is gone.
    let _ = fs::remove_file(path);
    let what = || format!("cannot listen at {path}");
    let listener = UnixListener::bind(path).context(ErrorKind::Io, what)?;
    fs::set_permissions(path, Permissions::from_mode(0o600))?;
    Ok(listener)
}
