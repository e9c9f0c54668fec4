//! The host's own login as a token. A login that has expired, or that the upstream rejects, is
//! renewed on the host and written back to the vendor's file: a refresh token works only once.

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::time::Duration;

use bottle_policy::{RenewReply, RenewRequest};
use nix::fcntl::Flock;
use zeroize::Zeroizing;

use super::digest::{Digest, digest};
use super::login_file::Login;
use crate::error::ErrorKind;
use crate::host::lock::lock_within;
use crate::host::process::Program;
use crate::provider::TokenSource;

/// Outer timeout of a renewal; `bottle-bundle renew` times out first.
const RENEW_DEADLINE: Duration = Duration::from_secs(30);
/// Longest wait for another launch that renews the same login.
const LOCK_DEADLINE: Duration = Duration::from_secs(60);

/// The access token of the login `source`. `bundle` is the program that renews it when it has
/// expired or is the token that the upstream `rejected`.
///
/// # Errors
/// One line for the operator, with what to do.
pub(crate) async fn token(
    source: &TokenSource,
    bundle: &Path,
    rejected: Option<&Digest>,
) -> Result<Zeroizing<String>, String> {
    let TokenSource::Login { provider, file, url, ca } = source else {
        return Err("not a login".to_owned());
    };
    let is_good = |login: &Login| {
        !login.has_expired() && rejected.is_none_or(|old| digest(&login.token) != *old)
    };
    let login = Login::read(*provider, file)?;
    if is_good(&login) {
        return Ok(login.token);
    }
    let file = file.canonicalize().map_err(|e| format!("{}: {e}", file.display()))?;
    let dir = file.parent().unwrap_or(Path::new("/"));
    let _lock = lock(dir).await?;
    // Another launch or the vendor's program may have renewed it in the meantime.
    let login = Login::read(*provider, &file)?;
    if is_good(&login) {
        return Ok(login.token);
    }
    let run = provider.login_command();
    let why = format!(
        "the login in {} {}",
        file.display(),
        if login.has_expired() { "has expired" } else { "is not taken any more" }
    );
    let Some(refresh_token) = login.refresh_token.clone() else {
        return Err(format!("{why}, and nothing in it renews it; run: {run}"));
    };
    let layout = provider.login.as_ref().ok_or("that provider keeps no login")?;
    // The new file is made before the request, so that the answer cannot be lost for lack of space.
    let mut new_file = tempfile::Builder::new()
        .prefix(".bottle-login-")
        .tempfile_in(dir)
        .map_err(|e| format!("{}: {e}", dir.display()))?;
    let url = url.clone().unwrap_or_else(|| layout.token_url.to_owned());
    let request =
        RenewRequest { url, ca: ca.clone(), client_id: layout.client_id.to_owned(), refresh_token };
    let program = Program::new("the login's client", bundle)
        .arg("renew")
        .args(["--parent", &std::process::id().to_string()]);
    let program = program.with_host_roots();
    let answer = program
        .run_with(&request, RENEW_DEADLINE, ErrorKind::Config)
        .await
        .map(Zeroizing::new)
        .map_err(|e| format!("{why}: {e:#}; run: {run}"))?;
    let renewed: RenewReply = serde_json::from_slice(&answer)
        .map_err(|_| format!("{why}: its client failed nothing; run: {run}"))?;
    let token = match &renewed {
        RenewReply::Refused(no) => {
            return Err(format!("{why} and cannot be renewed: {no}; run: {run}"));
        }
        RenewReply::Login { access_token, .. } => Zeroizing::new(access_token.expose().to_owned()),
    };
    let text = login.renewed(&renewed);
    let written = new_file.write_all(text.as_bytes()).and_then(|()| new_file.as_file().sync_all());
    written.and_then(|()| new_file.persist(&file).map(drop).map_err(|e| e.error)).map_err(|e| {
        format!(
            "the login in {} was renewed and cannot be new_file ({e}): you are logged out; run: {run}",
            file.display()
        )
    })?;
    Ok(token)
}

/// Locks `dir` against other renewals of its logins.
async fn lock(dir: &Path) -> Result<Flock<File>, String> {
    let failed = |e: std::io::Error| format!("{}: {e}", dir.display());
    lock_within(File::open(dir).map_err(failed)?, LOCK_DEADLINE).await.map_err(failed)
}
