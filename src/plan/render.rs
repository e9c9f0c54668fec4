//! The plan for a person, and what changed since the last one. Both are made from the same lines.

use bottle_policy::{Action, Method, PathPattern, Place, Route, Scan, Scheme};

use super::secrets::looks_secret;
use super::types::LaunchPlan;
use crate::manifest::{
    ByteSize, EgressChain, GitSpec, Interval, TokenSource, WorkspaceMode, neutral,
};

/// Longest cell in characters.
const LONGEST: usize = 160;
/// Columns wider than this do not widen the others of their section.
const WIDEST: usize = 44;

/// One line of the plan.
struct Line {
    section: &'static str,
    cells: Vec<String>,
}

/// The plan for a person: aligned sections, safe for a terminal.
#[must_use]
pub fn render(plan: &LaunchPlan) -> String {
    let lines = lines(plan);
    let mut out = String::new();
    for (i, line) in lines.iter().enumerate() {
        let same = |l: &&Line| l.section == line.section;
        let label = if i > 0 && same(&&lines[i - 1]) { "" } else { line.section };
        let mut text = format!("{label:<10}");
        for (column, cell) in line.cells.iter().enumerate() {
            let width = lines
                .iter()
                .filter(same)
                .filter_map(|l| l.cells.get(column))
                .map(|c| c.chars().count())
                .filter(|w| *w <= WIDEST)
                .max();
            let width = width.unwrap_or(0);
            text.push_str(&format!(" {cell:<width$} "));
        }
        out.push_str(text.trim_end());
        out.push('\n');
    }
    out
}

/// What changed since `previous`: lines that start with `+ ` or `- `; empty when nothing did.
#[must_use]
pub fn diff(previous: &LaunchPlan, current: &LaunchPlan) -> Vec<String> {
    let flat = |plan| {
        lines(plan)
            .into_iter()
            .map(|l| format!("{}: {}", l.section, l.cells.join("  ")).trim_end().to_owned())
            .collect::<Vec<_>>()
    };
    let (before, after) = (flat(previous), flat(current));
    let missing = |from: &[String], to: &[String], sign: char| {
        from.iter()
            .filter(|line| !to.contains(line))
            .map(|line| format!("{sign} {line}"))
            .collect::<Vec<_>>()
    };
    let mut out = missing(&before, &after, '-');
    out.extend(missing(&after, &before, '+'));
    // Routes are tried in order, so the same routes in another order are another policy.
    if out.is_empty() && previous.policy != current.policy {
        out.push("- reach: the previous order or details of the routes".to_owned());
        out.push(
            "+ reach: a new order or new details of the routes (the first match decides)"
                .to_owned(),
        );
    }
    if out.is_empty() && previous.git != current.git {
        out.push("+ git: details of what may be pushed, or of stale mirrors".to_owned());
    }
    out
}

impl LaunchPlan {
    /// The plan for printing (`--json`): guest values and command words that look like secrets are
    /// replaced by a word for their kind.
    #[must_use]
    pub fn redacted(&self) -> Self {
        let mut plan = self.clone();
        plan.env.values_mut().chain(&mut plan.command).for_each(|value| *value = hide(value));
        for source in plan.tokens.values_mut() {
            if let TokenSource::Command { argv, .. } = source {
                argv.iter_mut().for_each(|word| *word = hide(word));
            }
        }
        plan
    }
}

/// Lines under construction; texts are neutralised as they are added.
#[derive(Default)]
struct Lines(Vec<Line>);

impl Lines {
    fn add(&mut self, section: &'static str, cells: Vec<String>) {
        self.0.push(Line { section, cells: cells.iter().map(|c| cell(c)).collect() });
    }
}

fn lines(plan: &LaunchPlan) -> Vec<Line> {
    let mut out = Lines::default();
    machine_lines(plan, &mut out);
    agent_lines(plan, &mut out);
    reach_lines(plan, &mut out);
    environment_lines(plan, &mut out);
    let warning = |w: &String| Line { section: "warning", cells: vec![neutral(w)] };
    out.0.extend(plan.warnings.iter().map(warning));
    out.0
}

fn machine_lines(plan: &LaunchPlan, out: &mut Lines) {
    let named = if plan.slug == plan.agent { String::new() } else { format!(", as {}", plan.slug) };
    out.add(
        "agent",
        vec![format!("{} (provider {}, bottle {}){named}", plan.agent, plan.provider, plan.bottle)],
    );
    out.add("engine", vec![format!("{}: {}", plan.engine.name, plan.engine.reason)]);
    let image = &plan.image;
    out.add("image", vec![image.name.to_string(), image.facts.image.display().to_string()]);
    let guest = &image.facts.guest;
    out.add(
        "user",
        vec![format!("{} ({}:{}), in {}", guest.user, guest.uid, guest.gid, guest.workdir)],
    );
    let r = &plan.resources;
    let plural = if r.cpus == 1 { "" } else { "s" };
    out.add(
        "resources",
        vec![format!("{} CPU{plural}, {} memory, {} disk", r.cpus, r.memory, r.disk)],
    );
}

fn agent_lines(plan: &LaunchPlan, out: &mut Lines) {
    out.add("command", vec![words(&plan.command)]);
    if let Some(p) = &plan.prompt {
        let sha256 = p.sha256.get(..12).unwrap_or(&p.sha256);
        out.add("prompt", vec![format!("{} bytes, sha256 {sha256}", p.bytes)]);
    }
    for skill in &plan.skills {
        out.add("skills", vec![skill.name.to_string(), skill.dir.display().to_string()]);
    }
    match (&plan.workspace.mode, &plan.workspace.path) {
        (WorkspaceMode::Copy, Some(path)) => {
            out.add("workspace", vec![format!("a copy of {}", path.display())]);
        }
        (WorkspaceMode::Clone, _) => {
            out.add("workspace", vec!["a clone of the first repository below".to_owned()]);
        }
        _ => {}
    }
}

fn reach_lines(plan: &LaunchPlan, out: &mut Lines) {
    if plan.bundle_egress != EgressChain::default() {
        out.add("egress", vec![format!("by {}", plan.bundle_egress)]);
    }
    if plan.policy.routes.is_empty() {
        out.add("reach", vec!["nothing".to_owned()]);
    }
    for r in &plan.policy.routes {
        out.add("reach", route(r));
    }
    for (name, source) in &plan.tokens {
        out.add("tokens", vec![name.to_string(), token(source)]);
    }
    for git in &plan.git {
        out.add("git", vec![git.url.to_string(), push_rules(git), git_key(git)]);
    }
}

fn environment_lines(plan: &LaunchPlan, out: &mut Lines) {
    if let Some(identity) = &plan.identity {
        out.add("commits", vec![format!("by {} <{}>", identity.name, identity.email)]);
    }
    for (name, value) in &plan.env {
        out.add("env", vec![name.to_string(), hide(value)]);
    }
    for q in &plan.questions {
        out.add("env", vec![q.name.to_string(), format!("(asked: {})", q.question)]);
    }
    if plan.supervise {
        out.add("supervise", vec!["the agent may propose changes".to_owned()]);
    }
    if !plan.asking.notify.is_empty() {
        out.add("notify", vec![words(&plan.asking.notify)]);
    }
}

fn words(command: &[String]) -> String {
    command.iter().map(|w| word(w)).collect::<Vec<_>>().join(" ")
}

/// What may be pushed to a repository.
fn push_rules(git: &GitSpec) -> String {
    let Some(push) = &git.push else { return "read only".to_owned() };
    let list = |title: &str, patterns: &[bottle_policy::RefPattern]| {
        let patterns: Vec<_> = patterns.iter().map(ToString::to_string).collect();
        (!patterns.is_empty()).then(|| format!("{title} {}", patterns.join(", ")))
    };
    let findings = push.allow.len();
    let rules = [
        list("push", &push.branches),
        list("not", &push.protected),
        list("tags", &push.tags),
        (findings > 0).then(|| format!("ALLOWED FINDINGS: {findings}")),
        git.attest_key.as_ref().map(|key| format!("attested by {}", key.display())),
    ];
    rules.into_iter().flatten().collect::<Vec<_>>().join(", ")
}

/// How git-gate authenticates to a repository; empty: not at all.
fn git_key(git: &GitSpec) -> String {
    if let Some(path) = &git.identity_file {
        return format!("key {}", path.display());
    }
    if let Some((name, _)) = &git.token {
        return format!("token {name}");
    }
    let deploy_key = git.deploy_key.as_ref().map(|key| {
        let access = if key.write { "" } else { "read-only " };
        format!("{access}deploy key of {} by {} with {}", key.repo, key.api, key.token.0)
    });
    deploy_key.unwrap_or_default()
}

/// A route on one line.
#[must_use]
pub fn route_line(r: &Route) -> String {
    let cells: Vec<String> = route(r).into_iter().filter(|c| !c.is_empty()).collect();
    cells.join("  ")
}

fn route(r: &Route) -> Vec<String> {
    let host =
        if r.host.as_str().contains(':') { format!("[{}]", r.host) } else { r.host.to_string() };
    let methods = if r.methods.is_empty() {
        "any method".to_owned()
    } else {
        r.methods.iter().map(Method::as_str).collect::<Vec<_>>().join(",")
    };
    let paths = if r.paths.is_empty() {
        "/*".to_owned()
    } else {
        r.paths.iter().map(PathPattern::as_str).collect::<Vec<_>>().join(" ")
    };
    let mut notes = Vec::new();
    if let Some(i) = &r.inject {
        let scheme = match i.scheme {
            Scheme::Raw => "",
            Scheme::Bearer => "bearer ",
            Scheme::Basic => "basic ",
        };
        match &i.place {
            Place::Header(name) => notes.push(format!("{name}: {scheme}<{}>", i.token)),
            Place::Query(name) => notes.push(format!("?{name}={scheme}<{}>", i.token)),
        }
    }
    if r.name != r.host.as_str() && !r.name.is_empty() {
        notes.push(format!("route {}", r.name));
    }
    if r.apex {
        notes.push(format!("and {} itself", r.host.as_str().trim_start_matches("*.")));
    }
    if r.passthrough {
        notes.push("NO INTERCEPTION".to_owned());
    }
    if !r.tls {
        notes.push("PLAIN HTTP".to_owned());
    }
    if !r.websocket {
        notes.push("no WebSocket".to_owned());
    }
    if r.allow_private {
        notes.push("PRIVATE ADDRESSES".to_owned());
    }
    if let Some(connect) = r.connect {
        notes.push(format!("via {connect}"));
    }
    if r.ca.is_some() {
        notes.push("own CA".to_owned());
    }
    scan(&r.scan, &mut notes);
    limits(r, &mut notes);
    vec![format!("{host}:{}", r.port), methods, paths, notes.join(", ")]
}

fn token(source: &TokenSource) -> String {
    match source {
        TokenSource::Env(name) => format!("from variable {name}"),
        TokenSource::File { path, .. } => format!("from file {}{}", path.display(), again(source)),
        TokenSource::Command { argv, .. } => {
            format!(
                "from command {}{}",
                argv.iter().map(|w| word(w)).collect::<Vec<_>>().join(" "),
                again(source)
            )
        }
        TokenSource::Login { provider, file, .. } => {
            format!("from this host's login of {provider}, {}", file.display())
        }
        TokenSource::Generated => "made for this launch".to_owned(),
    }
}

/// How often a token's value is read again.
fn again(source: &TokenSource) -> String {
    source.refresh().map(|interval| format!(", again every {interval}")).unwrap_or_default()
}

/// A route's scan settings, as far as they differ from the defaults.
fn scan(scan: &Scan, notes: &mut Vec<String>) {
    match scan.limit {
        Some(Action::Off) => notes.push("SCAN OFF".to_owned()),
        Some(Action::Warn) => notes.push("scan only warns".to_owned()),
        Some(Action::Redact) => notes.push("scan redacts at most".to_owned()),
        Some(Action::Block) | None => {}
    }
    for (rule, action) in &scan.rules {
        let action = match action {
            Action::Off => "off",
            Action::Warn => "warn",
            Action::Redact => "redact",
            Action::Block => "block",
        };
        notes.push(format!("scan {rule}: {action}"));
    }
    if scan.responses {
        notes.push("scan responses".to_owned());
    }
}

/// A route's limits and budget.
fn limits(r: &Route, notes: &mut Vec<String>) {
    let amount = |bytes| ByteSize::bytes(bytes);
    notes.extend(r.max_body.map(|n| format!("≤ {} a body", amount(n))));
    let ways = [(r.budget.up, "up"), (r.budget.down, "down")];
    let budget: Vec<String> =
        ways.iter().filter_map(|(n, way)| n.map(|n| format!("{} {way}", amount(n)))).collect();
    if !budget.is_empty() {
        notes.push(format!("budget {}", budget.join(" and ")));
    }
    notes.extend(r.rate.map(|rate| format!("≤ {rate}")));
    let times = [
        (r.timeout.first_byte, "first byte"),
        (r.timeout.idle, "idle"),
        (r.timeout.total, "total"),
    ];
    notes.extend(times.iter().filter_map(|(seconds, what)| {
        seconds.map(|n| format!("{what} ≤ {}", Interval::seconds(n.into())))
    }));
    notes.extend(r.budget.requests.map(|n| format!("{n} request(s)")));
}

/// A word of a command, quoted for a shell, or hidden when it looks like a secret.
fn word(w: &str) -> String {
    let plain = !w.is_empty() && w.chars().all(|c| c.is_alphanumeric() || "-_./:=@,+%".contains(c));
    let shown = hide(w);
    if plain || shown != w { shown } else { format!("'{}'", w.replace('\'', "'\\''")) }
}

/// `value`, or a word for its kind when it looks like a secret.
pub(super) fn hide(value: &str) -> String {
    match looks_secret(value) {
        Some(what) => {
            format!("(looks like {what}: {} characters, not shown)", value.chars().count())
        }
        None => value.to_owned(),
    }
}

fn cell(text: &str) -> String {
    let total = text.chars().count();
    if total <= LONGEST {
        return neutral(text);
    }
    let head: String = text.chars().take(LONGEST).collect();
    format!("{}… ({total} characters)", neutral(&head))
}
