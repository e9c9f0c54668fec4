//! `bottle-bundle renew`: renews the host's own login at a vendor, for the orchestrator. The
//! request comes over standard input, the new login goes to standard output, a pipe; the process is
//! confined before it resolves a name.

use std::time::SystemTime;

use bottle_policy::{RenewReply, RenewRequest, Secret};
use hyper::{Method, StatusCode};
use serde_json::{Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use zeroize::Zeroizing;

use crate::https::client::{self, Api};

/// Does what standard input says.
///
/// # Errors
/// One line; nobody knows whether the login was renewed. No part of a token.
pub fn run() -> Result<(), String> {
    let renewed = client::once(|request: &RenewRequest| &request.url, renew)??;
    let text = Zeroizing::new(serde_json::to_string(&renewed).map_err(|e| e.to_string())?);
    println!("{}", *text);
    Ok(())
}

async fn renew(request: &RenewRequest) -> Result<RenewReply, String> {
    let mut api = match Api::connect(&request.url, request.ca.as_deref()).await {
        Ok(api) => api,
        Err(why) => return Ok(RenewReply::Refused(why)),
    };
    let body = json!({ "grant_type": "refresh_token", "refresh_token": request.refresh_token.expose(), "client_id": request.client_id });
    let (status, answer) = api.call(Method::POST, "", None, Some(&body)).await?;
    let text = |name: &str| answer[name].as_str().map(|s| Secret::new(s.to_owned()));
    match (status, text("access_token")) {
        (StatusCode::OK, Some(access_token)) => Ok(RenewReply::Login {
            access_token,
            refresh_token: text("refresh_token"),
            id_token: text("id_token"),
            expires_in: answer["expires_in"].as_u64(),
            at: OffsetDateTime::from(SystemTime::now()).format(&Rfc3339).unwrap_or_default(),
        }),
        _ => Ok(RenewReply::Refused(refused(request, status, &answer))),
    }
}

/// Whatever a server says is data; should it repeat the token, that is not.
fn refused(request: &RenewRequest, status: StatusCode, answer: &Value) -> String {
    let said = [&answer["error_description"], &answer["error"]]
        .into_iter()
        .find(|v| !v.is_null())
        .map(ToString::to_string);
    let said = said.unwrap_or_default().replace(request.refresh_token.expose(), "***");
    let said = bottle_policy::text::remove(&said, 200);
    format!("{}: {status} {said}", request.url)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_cannot_make_the_token_be_shown() {
        let refresh_token = Secret::new("hunter2".into());
        let request = RenewRequest {
            url: "https://h.test/t".into(),
            ca: None,
            client_id: "c".into(),
            refresh_token,
        };
        let said = refused(
            &request,
            StatusCode::BAD_REQUEST,
            &json!({ "error": "invalid_grant hunter2\u{1b}[2J" }),
        );
        assert!(
            said.contains("invalid_grant") && !said.contains("hunter2") && !said.contains('\u{1b}'),
            "{said}"
        );
    }
}
