//! Reads the modules of a crate and the paths that each file imports, from its sources alone.
//!
//! Test code does not count: items behind `#[cfg(test)]`, and files behind `#![cfg(test)]`.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// A word, `::`, or one punctuation character. Strings, comments and lifetimes are left out.
type Token = String;

/// One module of a crate: a file, or an inline `mod name { … }` inside one.
#[derive(Debug, Default)]
pub struct Module {
    pub file: PathBuf,
    pub tokens: Vec<Token>,
    /// Names of the items that are defined here.
    items: BTreeSet<String>,
    /// What `use` brings in here: the local name, and the path it stands for.
    imports: BTreeMap<String, Vec<String>>,
    /// Modules whose whole contents `use path::*` brings in.
    globs: Vec<Vec<String>>,
    /// Every path that this module names, relative to itself, `crate`, `super` or `self`.
    pub paths: Vec<Vec<String>>,
}

/// The modules of one crate, by their path below its root: `["launch", "control"]`, and empty for
/// the root itself.
#[derive(Debug, Default)]
pub struct Crate {
    pub modules: BTreeMap<Vec<String>, Module>,
}

impl Crate {
    /// Reads a crate from its root file (`lib.rs` or `main.rs`) and every file that it declares.
    pub fn read(root: &Path) -> Self {
        let mut found = Self::default();
        let dir = root.parent().expect("a folder").to_owned();
        let tokens = tokens(&std::fs::read_to_string(root).expect("the crate's root"));
        found.add(Vec::new(), root, &dir, without_tests(&tokens));
        found
    }

    /// Adds a module; `dir` is where the files of its children are.
    fn add(&mut self, path: Vec<String>, file: &Path, dir: &Path, tokens: Vec<Token>) {
        let mut module = Module { file: file.to_owned(), ..Module::default() };
        let mut rest = Vec::new();
        let mut at = 0;
        while at < tokens.len() {
            if tokens[at] != "mod" || at + 2 >= tokens.len() {
                rest.push(tokens[at].clone());
                at += 1;
                continue;
            }
            let name = tokens[at + 1].clone();
            let child: Vec<String> = path.iter().chain([&name]).cloned().collect();
            if tokens[at + 2] == "{" {
                let end = closing(&tokens, at + 2);
                self.add(child, file, &dir.join(&name), tokens[at + 3..end].to_vec());
                at = end + 1;
            } else {
                self.add_file(child, &dir.join(&name));
                at += 3;
            }
            module.items.insert(name);
        }
        module.read_uses(&rest);
        module.read_items(&rest);
        module.read_inline_paths(&rest);
        module.tokens = rest;
        self.modules.insert(path, module);
    }

    fn add_file(&mut self, path: Vec<String>, dir: &Path) {
        let beside = dir.with_extension("rs");
        let file = if beside.is_file() { beside } else { dir.join("mod.rs") };
        let text = std::fs::read_to_string(&file)
            .unwrap_or_else(|e| panic!("{} is declared: {e}", file.display()));
        let tokens = tokens(&text);
        if !starts_with(&tokens, 0, &["#", "!", "[", "cfg", "(", "test", ")", "]"]) {
            self.add(path, &file, dir, without_tests(&tokens));
        }
    }

    /// The module in which the item that `path` names, seen from `from`, is defined. `None` when
    /// it belongs to another crate.
    pub fn resolve(&self, from: &[String], path: &[String]) -> Option<Vec<String>> {
        self.resolve_within(from, path, 0)
    }

    fn resolve_within(
        &self,
        from: &[String],
        path: &[String],
        depth: usize,
    ) -> Option<Vec<String>> {
        if depth > 16 {
            return None;
        }
        let (mut at, mut rest) = match path.first()?.as_str() {
            "crate" => (Vec::new(), &path[1..]),
            "self" => (from.to_vec(), &path[1..]),
            "super" => (from[..from.len().checked_sub(1)?].to_vec(), &path[1..]),
            first => {
                let module = self.modules.get(from)?;
                let known = module.items.contains(first) || module.imports.contains_key(first);
                if !known {
                    return None;
                }
                (from.to_vec(), path)
            }
        };
        while rest.first().is_some_and(|s| s == "super") {
            at.pop()?;
            rest = &rest[1..];
        }
        while let Some(name) = rest.first() {
            let child: Vec<String> = at.iter().chain([name]).cloned().collect();
            if self.modules.contains_key(&child) {
                (at, rest) = (child, &rest[1..]);
                continue;
            }
            let module = self.modules.get(&at)?;
            if module.items.contains(name) {
                break;
            }
            if let Some(import) = module.imports.get(name) {
                // Renaming something to its own name would lead back here.
                let stands_for = import.iter().chain(&rest[1..]).cloned().collect::<Vec<_>>();
                return self.resolve_within(&at, &stands_for, depth + 1);
            }
            let through_glob = module.globs.iter().find_map(|glob| {
                let target = self.resolve_within(&at, glob, depth + 1)?;
                self.modules.get(&target).filter(|m| m.items.contains(name)).map(|_| target)
            });
            return Some(through_glob.unwrap_or(at));
        }
        Some(at)
    }
}

impl Module {
    /// Reads each `use` tree. A path's last element may be `*`.
    fn read_uses(&mut self, tokens: &[Token]) {
        let mut at = 0;
        while at < tokens.len() {
            // `impl Trait + use<'a>` is no import.
            if tokens[at] == "use" && tokens.get(at + 1).is_some_and(|t| t != "<") {
                at = self.read_use_tree(tokens, at + 1, Vec::new());
            } else {
                at += 1;
            }
        }
    }

    /// Reads one tree that begins at `at`, below `prefix`; returns where it ends.
    fn read_use_tree(&mut self, tokens: &[Token], mut at: usize, prefix: Vec<String>) -> usize {
        let mut path = prefix;
        loop {
            match tokens.get(at).map_or(";", String::as_str) {
                "::" => at += 1,
                "{" => {
                    at += 1;
                    while tokens.get(at).is_some_and(|t| t != "}") {
                        at = self.read_use_tree(tokens, at, path.clone());
                        if tokens.get(at).is_some_and(|t| t == ",") {
                            at += 1;
                        }
                    }
                    return at + 1;
                }
                "*" => {
                    self.paths.push(path.clone());
                    self.globs.push(path);
                    return at + 1;
                }
                "as" => {
                    self.add_import(tokens[at + 1].clone(), path);
                    return at + 2;
                }
                ";" | "," | "}" => {
                    if let Some(name) = path.last().filter(|n| *n != "self").cloned() {
                        self.add_import(name, path);
                    } else {
                        path.pop();
                        let name = path.last().cloned().unwrap_or_default();
                        self.add_import(name, path);
                    }
                    return at;
                }
                word => {
                    path.push(word.to_owned());
                    at += 1;
                }
            }
        }
    }

    fn add_import(&mut self, name: String, path: Vec<String>) {
        self.paths.push(path.clone());
        self.imports.insert(name, path);
    }

    fn read_items(&mut self, tokens: &[Token]) {
        const KEYWORDS: [&str; 9] =
            ["fn", "struct", "enum", "trait", "type", "const", "static", "union", "macro_rules"];
        for (at, token) in tokens.iter().enumerate() {
            if KEYWORDS.contains(&token.as_str()) {
                let name = tokens[at + 1..].iter().find(|t| !["!", "mut"].contains(&t.as_str()));
                self.items.extend(name.cloned());
            }
        }
    }

    /// Reads paths that are written in full where they are used: `crate::a::b`, `super::x`,
    /// `child::y`.
    fn read_inline_paths(&mut self, tokens: &[Token]) {
        let mut at = 0;
        while at < tokens.len() {
            let begins = is_word(&tokens[at])
                && tokens.get(at + 1).is_some_and(|t| t == "::")
                && (at == 0 || !["::", "use", "in"].contains(&tokens[at - 1].as_str()));
            if !begins {
                at += 1;
                continue;
            }
            let mut path = vec![tokens[at].clone()];
            while tokens.get(at + 1).is_some_and(|t| t == "::")
                && tokens.get(at + 2).is_some_and(|t| is_word(t))
            {
                path.push(tokens[at + 2].clone());
                at += 2;
            }
            self.paths.push(path);
            at += 1;
        }
    }
}

fn is_word(token: &str) -> bool {
    token.starts_with(|c: char| c.is_alphanumeric() || c == '_')
}

fn starts_with(tokens: &[Token], at: usize, words: &[&str]) -> bool {
    tokens.len() >= at + words.len() && tokens[at..].iter().zip(words).all(|(t, w)| t == w)
}

/// Where the bracket that opens at `at` is closed.
fn closing(tokens: &[Token], at: usize) -> usize {
    let mut depth = 0_usize;
    for (i, token) in tokens.iter().enumerate().skip(at) {
        match token.as_str() {
            "{" | "(" | "[" => depth += 1,
            "}" | ")" | "]" => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return i;
        }
    }
    tokens.len()
}

/// Leaves out attributes, and every item, field or statement behind `#[cfg(test)]`.
pub fn without_tests(tokens: &[Token]) -> Vec<Token> {
    let (mut out, mut at) = (Vec::new(), 0);
    while at < tokens.len() {
        let inner = starts_with(tokens, at, &["#", "!", "["]);
        if !inner && !starts_with(tokens, at, &["#", "["]) {
            out.push(tokens[at].clone());
            at += 1;
            continue;
        }
        let test = starts_with(tokens, at, &["#", "[", "cfg", "(", "test", ")", "]"]);
        at = closing(tokens, at + if inner { 2 } else { 1 }) + 1;
        if test {
            while starts_with(tokens, at, &["#", "["]) {
                at = closing(tokens, at + 1) + 1;
            }
            at = end_of_item(tokens, at);
        }
    }
    out
}

/// Where the item that begins at `at` ends.
fn end_of_item(tokens: &[Token], mut at: usize) -> usize {
    const WITH_BODY: [&str; 9] =
        ["mod", "fn", "impl", "struct", "enum", "trait", "union", "macro_rules", "unsafe"];
    const TO_SEMICOLON: [&str; 6] = ["use", "const", "static", "type", "let", "extern"];
    let mut kind = "";
    while at < tokens.len() {
        let token = tokens[at].as_str();
        if WITH_BODY.contains(&token) {
            kind = "body";
        } else if kind.is_empty() && TO_SEMICOLON.contains(&token) {
            kind = "semicolon";
        }
        match token {
            "{" | "(" | "[" => {
                at = closing(tokens, at);
                if token == "{" && kind != "semicolon" {
                    return at + 1;
                }
            }
            ";" => return at + 1,
            "," if kind.is_empty() => return at + 1,
            "}" => return at,
            _ => {}
        }
        at += 1;
    }
    at
}

/// The tokens of Rust source.
pub fn tokens(text: &str) -> Vec<Token> {
    let chars: Vec<char> = text.chars().collect();
    let (mut out, mut at) = (Vec::new(), 0);
    while at < chars.len() {
        let (c, next) = (chars[at], chars.get(at + 1).copied().unwrap_or(' '));
        match c {
            '/' if next == '/' => {
                while at < chars.len() && chars[at] != '\n' {
                    at += 1;
                }
            }
            '/' if next == '*' => at = end_of_comment(&chars, at),
            '"' => at = end_of_string(&chars, at + 1, '"'),
            '\'' => at = end_of_quote(&chars, at),
            ':' if next == ':' => {
                out.push("::".to_owned());
                at += 2;
            }
            c if c.is_alphanumeric() || c == '_' => {
                let from = at;
                while at < chars.len() && (chars[at].is_alphanumeric() || chars[at] == '_') {
                    at += 1;
                }
                let word: String = chars[from..at].iter().collect();
                if ["r", "br", "cr"].contains(&word.as_str()) && starts_raw(&chars, at) {
                    at = end_of_raw_string(&chars, at);
                } else {
                    out.push(word);
                }
            }
            c => {
                if !c.is_whitespace() {
                    out.push(c.to_string());
                }
                at += 1;
            }
        }
    }
    out
}

fn end_of_comment(chars: &[char], mut at: usize) -> usize {
    let mut depth = 0;
    while at < chars.len() {
        match (chars[at], chars.get(at + 1)) {
            ('/', Some('*')) => (depth, at) = (depth + 1, at + 2),
            ('*', Some('/')) => (depth, at) = (depth - 1, at + 2),
            _ => at += 1,
        }
        if depth == 0 {
            break;
        }
    }
    at
}

fn end_of_string(chars: &[char], mut at: usize, quote: char) -> usize {
    while at < chars.len() && chars[at] != quote {
        at += if chars[at] == '\\' { 2 } else { 1 };
    }
    at + 1
}

/// A character, or a lifetime.
fn end_of_quote(chars: &[char], at: usize) -> usize {
    match (chars.get(at + 1), chars.get(at + 2)) {
        (Some('\\'), _) | (_, Some('\'')) => end_of_string(chars, at + 1, '\''),
        _ => at + 1,
    }
}

/// A raw string, not a raw identifier such as `r#type`.
fn starts_raw(chars: &[char], at: usize) -> bool {
    chars[at..].iter().find(|c| **c != '#') == Some(&'"')
}

fn end_of_raw_string(chars: &[char], at: usize) -> usize {
    let hashes = chars[at..].iter().take_while(|c| **c == '#').count();
    let end: Vec<char> = std::iter::once('"').chain(std::iter::repeat_n('#', hashes)).collect();
    let from = at + hashes + 1;
    let length = chars[from..].windows(end.len()).position(|w| w == end);
    from + length.map_or(chars.len() - from, |n| n + end.len())
}
