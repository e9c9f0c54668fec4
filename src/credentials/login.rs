//! The host's own login as a token. One that has ended, or that the upstream turned down, is
//! renewed here on the host, and written back to where the vendor's program keeps it: what renews a
//! login is good once.

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::time::Duration;

use bottle_policy::{RenewReply, RenewRequest};
use nix::fcntl::Flock;
use zeroize::Zeroizing;

use super::tokens::{Digest, digest};
use crate::error::Kind;
use crate::host::process::Program;
use crate::manifest::TokenSource;
use crate::provider::{Login, renewal, renewed_by};
use crate::state::lock_within;

/// For the question; the program itself gives up before.
const DEADLINE: Duration = Duration::from_secs(30);
/// For another launch that renews the same login.
const TURN: Duration = Duration::from_secs(60);

/// The access token of the login `source`, renewed by the program `bundle` where it has ended, or
/// is the one that was `turned_down`.
///
/// # Errors
/// One line for the operator, with what to do.
pub(crate) async fn token(
    source: &TokenSource,
    bundle: &Path,
    turned_down: Option<&Digest>,
) -> Result<Zeroizing<String>, String> {
    let TokenSource::Login { provider, file, url, ca } = source else {
        return Err("not a login".to_owned());
    };
    let is_good = |login: &Login| {
        !login.ended() && turned_down.is_none_or(|old| digest(&login.token) != *old)
    };
    let login = Login::read(*provider, file)?;
    if is_good(&login) {
        return Ok(login.token);
    }
    let file = file.canonicalize().map_err(|e| format!("{}: {e}", file.display()))?;
    let dir = file.parent().unwrap_or(Path::new("/"));
    let _turn = turn(dir).await?;
    // Somebody else may have renewed it in the meantime: another launch, or the vendor's program.
    let login = Login::read(*provider, &file)?;
    if is_good(&login) {
        return Ok(login.token);
    }
    let run = renewed_by(*provider);
    let why = format!(
        "the login in {} {}",
        file.display(),
        if login.ended() { "has expired" } else { "is not taken any more" }
    );
    let Some(refresh_token) = login.renewed_with.clone() else {
        return Err(format!("{why}, and nothing in it renews it; run: {run}"));
    };
    let (usual, client_id) = renewal(*provider).ok_or("that provider keeps no login")?;
    // Before the question: what is asked for must not be lost for want of a place.
    let mut kept = tempfile::Builder::new()
        .prefix(".bottle-login-")
        .tempfile_in(dir)
        .map_err(|e| format!("{}: {e}", dir.display()))?;
    let url = url.clone().unwrap_or_else(|| usual.to_owned());
    let request =
        RenewRequest { url, ca: ca.clone(), client_id: client_id.to_owned(), refresh_token };
    let program = Program::new("the login's client", bundle.to_owned())
        .arg("renew")
        .args(["--parent", &std::process::id().to_string()]);
    let program = program.with_host_roots();
    let answer = program
        .run_with(&request, DEADLINE, Kind::Config)
        .await
        .map(Zeroizing::new)
        .map_err(|e| format!("{why}: {e}; run: {run}"))?;
    let renewed: RenewReply = serde_json::from_slice(&answer)
        .map_err(|_| format!("{why}: its client said nothing; run: {run}"))?;
    let token = match &renewed {
        RenewReply::Refused(no) => {
            return Err(format!("{why} and cannot be renewed: {no}; run: {run}"));
        }
        RenewReply::Login { access_token, .. } => Zeroizing::new(access_token.expose().to_owned()),
    };
    let text = login.with(*provider, &renewed);
    let written = kept.write_all(text.as_bytes()).and_then(|()| kept.as_file().sync_all());
    written.and_then(|()| kept.persist(&file).map(drop).map_err(|e| e.error)).map_err(|e| {
        format!(
            "the login in {} was renewed and cannot be kept ({e}): you are logged out; run: {run}",
            file.display()
        )
    })?;
    Ok(token)
}

/// Waits until nobody else renews a login in `dir`.
async fn turn(dir: &Path) -> Result<Flock<File>, String> {
    let said = |e: std::io::Error| format!("{}: {e}", dir.display());
    lock_within(File::open(dir).map_err(said)?, TURN).await.map_err(said)
}
