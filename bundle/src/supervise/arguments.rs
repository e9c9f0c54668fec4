//! The arguments of the tools, and what they become: proposals, in types that have no place for
//! what must not be asked for.

use std::fmt::Display;
use std::str::FromStr;

use bottle_policy::{
    Ask, MAX_CHOICE_CHARS, MAX_ITEMS, MAX_TEXT_CHARS, RouteAsk, UntrustedText, parse_host,
};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::checks::{Check, Checks};

/// No arguments.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NoArgs {}

/// Arguments of `explain_denial`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DenialArgs {
    pub last: Option<u8>,
}

/// Arguments of `propose_route`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RouteArgs {
    pub host: String,
    pub port: Option<u16>,
    pub methods: Vec<String>,
    pub paths: Vec<String>,
    pub tls: Option<bool>,
    pub reason: String,
    pub wait_seconds: Option<u32>,
}

/// Arguments of `propose_git_upstream`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UpstreamArgs {
    pub url: String,
    #[serde(default)]
    pub branches: Vec<String>,
    pub reason: String,
    pub wait_seconds: Option<u32>,
}

/// Arguments of `propose_ref`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RefArgs {
    pub upstream: String,
    pub branches: Vec<String>,
    pub reason: String,
    pub wait_seconds: Option<u32>,
}

/// Arguments of `allow_finding`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FindingArgs {
    pub upstream: String,
    pub fingerprint: String,
    pub reason: String,
    pub wait_seconds: Option<u32>,
}

/// Arguments of `ask_operator`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct QuestionArgs {
    pub question: String,
    #[serde(default)]
    pub choices: Vec<String>,
    pub wait_seconds: Option<u32>,
}

/// Arguments of `proposal_status`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StatusArgs {
    pub id: Option<u32>,
    pub wait_seconds: Option<u32>,
}

/// A proposal that is to be filed.
pub struct Draft {
    /// What is asked for.
    pub ask: Ask,
    /// Why, in the agent's words.
    pub reason: String,
    /// How long the call waits for a decision, in seconds.
    pub wait_seconds: Option<u32>,
}

/// Arguments that make a [`Draft`].
pub trait IntoDraft {
    /// # Errors
    /// One line for the agent: what is wrong with the arguments.
    fn into_draft(self, checks: &Checks) -> Result<Draft, String>;
}

/// Parses the arguments of a tool.
///
/// # Errors
/// One line for the agent.
pub fn parse<T: DeserializeOwned>(args: Value) -> Result<T, String> {
    serde_json::from_value(args)
        .map_err(|e| format!("arguments: {}", UntrustedText::new(&e.to_string(), MAX_TEXT_CHARS)))
}

/// Parses one text.
fn parse_text<T: FromStr<Err: Display>>(text: &str) -> Result<T, String> {
    text.parse().map_err(|e: T::Err| UntrustedText::new(&e.to_string(), MAX_TEXT_CHARS).to_string())
}

/// Parses each of at most [`MAX_ITEMS`] texts.
fn parse_list<T: FromStr<Err: Display>>(
    checks: &Checks,
    what: &str,
    texts: &[String],
) -> Result<Vec<T>, String> {
    check_length(checks, what, texts)?;
    texts.iter().map(|t| parse_text(t)).collect()
}

fn check_length(checks: &Checks, what: &str, texts: &[String]) -> Result<(), String> {
    if checks.enabled(Check::ListLength) && texts.len() > MAX_ITEMS {
        return Err(format!("at most {MAX_ITEMS} {what}"));
    }
    Ok(())
}

/// Checks a reason or a question. Nobody approves a proposal without one.
fn check_reason(checks: &Checks, text: String) -> Result<String, String> {
    match text.trim().is_empty() {
        _ if !checks.enabled(Check::Reason) => Ok(text),
        true => Err("say why: a person reads it and decides".to_owned()),
        false if text.chars().count() > MAX_TEXT_CHARS => {
            Err(format!("say it in {MAX_TEXT_CHARS} characters"))
        }
        false => Ok(text),
    }
}

impl IntoDraft for RouteArgs {
    fn into_draft(self, checks: &Checks) -> Result<Draft, String> {
        let tls = self.tls.unwrap_or(true);
        let route = RouteAsk {
            methods: parse_list(checks, "methods", &self.methods)?,
            paths: parse_list(checks, "paths", &self.paths)?,
            host: parse_host(&self.host)
                .map_err(|e| UntrustedText::new(&e, MAX_TEXT_CHARS).to_string())?,
            port: self.port.unwrap_or(if tls { 443 } else { 80 }),
            tls,
        };
        route.check()?;
        let reason = check_reason(checks, self.reason)?;
        Ok(Draft { ask: Ask::Route(route), reason, wait_seconds: self.wait_seconds })
    }
}

impl IntoDraft for UpstreamArgs {
    fn into_draft(self, checks: &Checks) -> Result<Draft, String> {
        let ask = Ask::GitUpstream {
            url: parse_text(&self.url)?,
            branches: parse_list(checks, "branches", &self.branches)?,
        };
        let reason = check_reason(checks, self.reason)?;
        Ok(Draft { ask, reason, wait_seconds: self.wait_seconds })
    }
}

impl IntoDraft for RefArgs {
    fn into_draft(self, checks: &Checks) -> Result<Draft, String> {
        if self.branches.is_empty() {
            return Err("name the branches".to_owned());
        }
        let ask = Ask::Ref {
            upstream: parse_text(&self.upstream)?,
            branches: parse_list(checks, "branches", &self.branches)?,
        };
        let reason = check_reason(checks, self.reason)?;
        Ok(Draft { ask, reason, wait_seconds: self.wait_seconds })
    }
}

impl IntoDraft for FindingArgs {
    fn into_draft(self, checks: &Checks) -> Result<Draft, String> {
        let ask = Ask::Finding {
            upstream: parse_text(&self.upstream)?,
            fingerprint: parse_text(&self.fingerprint)?,
        };
        let reason = check_reason(checks, self.reason)?;
        Ok(Draft { ask, reason, wait_seconds: self.wait_seconds })
    }
}

impl IntoDraft for QuestionArgs {
    fn into_draft(self, checks: &Checks) -> Result<Draft, String> {
        check_length(checks, "choices", &self.choices)?;
        let text = UntrustedText::new(&check_reason(checks, self.question)?, MAX_TEXT_CHARS);
        let choices =
            self.choices.iter().map(|c| UntrustedText::new(c, MAX_CHOICE_CHARS)).collect();
        let ask = Ask::Question { text, choices };
        Ok(Draft { ask, reason: String::new(), wait_seconds: self.wait_seconds })
    }
}
