//! Walking a TOML document with types, so that every fault has its line and column and none hides
//! another.
//!
//! A getter that finds a fault reports it to the shared list and returns `None`; the caller reads
//! all keys first and gives up with `?` afterwards.

use std::cell::{Cell, RefCell};
use std::fmt::Display;
use std::ops::Range;
use std::path::Path;
use std::str::FromStr;
use std::sync::Arc;

use toml_edit::{ArrayOfTables, Item, TableLike, Value};

use super::{ByteSize, Location, ManifestError, nearest, quote};

/// Most faults that are reported; later ones are counted.
const MAX_FAULTS: usize = 100;
/// Columns after this many bytes of a line are counted in bytes.
const MAX_COUNTED_BYTES: usize = 10_000;

/// The faults found so far, of all files.
#[derive(Debug, Default)]
pub(super) struct Faults {
    list: RefCell<Vec<ManifestError>>,
    more: Cell<usize>,
}

impl Faults {
    pub fn push(&self, at: &Location, key: &str, message: impl Into<String>, hint: Option<String>) {
        let mut list = self.list.borrow_mut();
        if list.len() < MAX_FAULTS {
            list.push(ManifestError::new(at, key, message, hint));
        } else {
            self.more.set(self.more.get() + 1);
        }
    }

    /// All faults in file order, or `None` when there is none.
    pub fn into_list(self) -> Option<Vec<ManifestError>> {
        let mut list = self.list.into_inner();
        list.sort_by(|a, b| (&a.file, a.line, a.column).cmp(&(&b.file, b.line, b.column)));
        if let (Some(last), more @ 1..) = (list.last_mut(), self.more.get()) {
            last.hint = Some(format!("and {more} more errors"));
        }
        (!list.is_empty()).then_some(list)
    }
}

/// A file's text, or the part of it that is TOML.
pub(super) struct Source<'a> {
    file: Arc<Path>,
    text: &'a str,
    /// Where in `text` the TOML begins.
    base: usize,
    /// Offsets at which lines begin.
    lines: Vec<usize>,
    pub faults: &'a Faults,
}

impl<'a> Source<'a> {
    pub fn new(file: &Path, text: &'a str, base: usize, faults: &'a Faults) -> Self {
        let lines = std::iter::once(0)
            .chain(text.bytes().enumerate().filter(|(_, b)| *b == b'\n').map(|(i, _)| i + 1))
            .collect();
        Self { file: file.into(), text, base, lines, faults }
    }

    /// The place of a span that the TOML parser gave.
    pub fn at(&self, span: Option<&Range<usize>>) -> Location {
        let mut offset =
            span.map_or(self.base, |s| self.base.saturating_add(s.start)).min(self.text.len());
        while !self.text.is_char_boundary(offset) {
            offset -= 1;
        }
        // A fault at the very end is shown on the last line that has text, which is the one an
        // editor can go to.
        if offset == self.text.len() && offset > 0 && self.text.ends_with('\n') {
            offset -= 1;
        }
        let line = self.lines.partition_point(|start| *start <= offset).saturating_sub(1);
        let start = self.lines.get(line).copied().unwrap_or(0);
        let column = if offset - start > MAX_COUNTED_BYTES {
            offset - start
        } else {
            self.text[start..offset].chars().count()
        };
        let number = |n: usize| u32::try_from(n + 1).unwrap_or(u32::MAX);
        Location { file: Arc::clone(&self.file), line: number(line), column: number(column) }
    }
}

/// A table of the document.
pub(super) struct Tab<'a> {
    pub src: &'a Source<'a>,
    table: &'a dyn TableLike,
    pub path: String,
    pub at: Location,
    known: RefCell<Vec<&'static str>>,
}

impl<'a> Tab<'a> {
    pub fn new(src: &'a Source<'a>, table: &'a dyn TableLike, path: String, at: Location) -> Self {
        Self { src, table, path, at, known: RefCell::default() }
    }

    fn child(&self, key: &str) -> Option<(Location, Val<'a>)> {
        let (name, item) = self.table.get_key_value(key)?;
        let key_at = name.span().map_or_else(|| self.at.clone(), |s| self.src.at(Some(&s)));
        let plain = !key.is_empty()
            && key.len() <= 64
            && key.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_');
        let shown = if plain { key.to_owned() } else { quote(key) };
        let path = if self.path.is_empty() { shown } else { format!("{}.{shown}", self.path) };
        let node = match item {
            Item::None => return None,
            Item::Value(Value::InlineTable(t)) => Node::Table(t),
            Item::Value(v) => Node::Value(v),
            Item::Table(t) => Node::Table(t),
            Item::ArrayOfTables(a) => Node::Tables(a),
        };
        // A table's own span is its header or its braces; a dotted one has none that is useful.
        let at = match node {
            Node::Value(v) => v.span().map_or_else(|| key_at.clone(), |s| self.src.at(Some(&s))),
            Node::Table(_) | Node::Tables(_) => key_at.clone(),
        };
        Some((key_at, Val { src: self.src, node, path, at }))
    }

    /// The value of `key`, if it is there.
    pub fn opt(&self, key: &'static str) -> Option<Val<'a>> {
        self.known.borrow_mut().push(key);
        self.child(key).map(|(_, value)| value)
    }

    /// The value of `key`; its absence is a fault.
    pub fn req(&self, key: &'static str) -> Option<Val<'a>> {
        let value = self.opt(key);
        if value.is_none() {
            self.fail(format!("missing key `{key}`{}", self.inside()), None);
        }
        value
    }

    /// All keys in file order, with their places, for tables whose keys are names; at most `most`.
    pub fn entries(&self, most: usize) -> Vec<(String, Location, Val<'a>)> {
        if self.table.len() > most {
            self.fail(format!("more than {most} entries{}", self.inside()), None);
        }
        let keys = self.table.iter().take(most).map(|(key, _)| key.to_owned());
        keys.filter_map(|key| self.child(&key).map(|(at, value)| (key, at, value))).collect()
    }

    /// Reports keys that were never asked for. Call it when all known keys were.
    pub fn finish(&self) {
        let known = self.known.borrow();
        for (key, _) in self.table.iter().filter(|(key, _)| !known.contains(key)) {
            let Some((at, _)) = self.child(key) else { continue };
            let hint = match nearest(key, known.iter().copied()) {
                Some(near) => format!("did you mean `{near}`?"),
                None => format!("known keys: {}", known.join(", ")),
            };
            self.src.faults.push(
                &at,
                &self.path,
                format!("unknown key {}{}", quote(key), self.inside()),
                Some(hint),
            );
        }
    }

    pub fn fail(&self, message: impl Into<String>, hint: Option<String>) {
        self.src.faults.push(&self.at, &self.path, message, hint);
    }

    fn inside(&self) -> String {
        if self.path.is_empty() { String::new() } else { format!(" in `{}`", self.path) }
    }
}

#[derive(Clone, Copy)]
enum Node<'a> {
    Value(&'a Value),
    Table(&'a dyn TableLike),
    Tables(&'a ArrayOfTables),
}

/// A value of the document.
#[derive(Clone)]
pub(super) struct Val<'a> {
    pub src: &'a Source<'a>,
    node: Node<'a>,
    pub path: String,
    pub at: Location,
}

impl<'a> Val<'a> {
    /// Reports a fault here.
    pub fn fail(&self, message: impl Into<String>, hint: Option<String>) {
        self.src.faults.push(&self.at, &self.path, message, hint);
    }

    /// Reports a fault here and is `None`, for use as a tail.
    pub fn none<T>(&self, message: impl Into<String>, hint: Option<String>) -> Option<T> {
        self.fail(message, hint);
        None
    }

    fn kind(&self) -> &'static str {
        match self.node {
            Node::Value(v) => v.type_name(),
            Node::Table(_) => "table",
            Node::Tables(_) => "array of tables",
        }
    }

    fn wrong<T>(&self, wanted: &str) -> Option<T> {
        let hint = match self.node {
            Node::Value(v @ (Value::Integer(_) | Value::Float(_) | Value::Boolean(_)))
                if wanted == "a string" =>
            {
                Some(format!("put it in quotes: \"{}\"", v.clone().decorated("", "")))
            }
            Node::Value(Value::String(_)) if wanted == "a list" => {
                Some("put it in brackets: [\"…\"]".to_owned())
            }
            _ => None,
        };
        self.none(
            format!(
                "`{}` must be {wanted}, not {} {}",
                self.path,
                article(self.kind()),
                self.kind()
            ),
            hint,
        )
    }

    /// Whether it is a table.
    pub fn is_table(&self) -> bool {
        matches!(self.node, Node::Table(_))
    }

    /// A string.
    pub fn str(&self) -> Option<&'a str> {
        match self.node {
            Node::Value(v) if v.is_str() => v.as_str(),
            _ => self.wrong("a string"),
        }
    }

    /// A string of one line, 1 to `most` bytes, without control characters.
    pub fn line(&self, most: usize) -> Option<&'a str> {
        let text = self.str()?;
        if text.trim().is_empty() {
            return self.none(format!("`{}` is empty", self.path), None);
        }
        if text.len() > most {
            return self.none(format!("`{}` is longer than {most} bytes", self.path), None);
        }
        match text.chars().find(|c| c.is_control()) {
            Some(c) => self.none(
                format!("`{}` has a control character ({})", self.path, c.escape_default()),
                None,
            ),
            None => Some(text),
        }
    }

    /// A string that says what `T` parses.
    pub fn parse<T: FromStr<Err: Display>>(&self) -> Option<T> {
        self.str()?.parse().map_err(|e: T::Err| self.fail(e.to_string(), None)).ok()
    }

    /// One of a few words.
    pub fn choice<T: Copy>(&self, choices: &[(&'static str, T)]) -> Option<T> {
        let text = self.str()?;
        if let Some((_, value)) = choices.iter().find(|(word, _)| *word == text) {
            return Some(*value);
        }
        let words = || choices.iter().map(|(word, _)| *word);
        let hint = nearest(text, words()).map(|near| format!("did you mean `{near}`?"));
        self.none(
            format!(
                "`{}` is {}, not {}",
                self.path,
                words().collect::<Vec<_>>().join(" or "),
                quote(text)
            ),
            hint,
        )
    }

    /// A whole number between `min` and `max`.
    pub fn int(&self, min: i64, max: i64) -> Option<i64> {
        let Node::Value(Value::Integer(n)) = self.node else { return self.wrong("a whole number") };
        match *n.value() {
            n if (min..=max).contains(&n) => Some(n),
            n => {
                self.none(format!("`{}` must be between {min} and {max}, not {n}", self.path), None)
            }
        }
    }

    /// An amount of data: a whole number of bytes, or a text with a unit.
    pub fn amount(&self) -> Option<ByteSize> {
        match self.node {
            Node::Value(Value::Integer(n)) => match u64::try_from(*n.value()) {
                Ok(n) => Some(ByteSize::bytes(n)),
                Err(_) => self.none(format!("`{}` must not be negative", self.path), None),
            },
            Node::Value(Value::String(_)) => self.parse(),
            _ => self.wrong("an amount such as \"10MB\", or bytes"),
        }
    }

    /// `true` or `false`.
    pub fn bool(&self) -> Option<bool> {
        match self.node {
            Node::Value(Value::Boolean(b)) => Some(*b.value()),
            _ => self.wrong("true or false"),
        }
    }

    /// A table.
    pub fn table(&self) -> Option<Tab<'a>> {
        match self.node {
            Node::Table(t) => Some(Tab::new(self.src, t, self.path.clone(), self.at.clone())),
            _ => self.wrong("a table"),
        }
    }

    /// The elements of a list, or of `[[…]]` tables; 1 to `most` of them.
    pub fn list(&self, most: usize) -> Option<Vec<Val<'a>>> {
        let element = |i: usize, node, span: Option<Range<usize>>| Val {
            src: self.src,
            node,
            path: format!("{}[{i}]", self.path),
            at: span.map_or_else(|| self.at.clone(), |s| self.src.at(Some(&s))),
        };
        let elements: Vec<Val<'a>> = match self.node {
            Node::Value(Value::Array(a)) => a
                .iter()
                .take(most + 1)
                .enumerate()
                .map(|(i, v)| match v {
                    Value::InlineTable(t) => element(i, Node::Table(t), v.span()),
                    v => element(i, Node::Value(v), v.span()),
                })
                .collect(),
            Node::Tables(a) => a
                .iter()
                .take(most + 1)
                .enumerate()
                .map(|(i, t)| element(i, Node::Table(t), t.span()))
                .collect(),
            _ => return self.wrong("a list"),
        };
        match elements.len() {
            0 => self.none(
                format!("`{}` is an empty list", self.path),
                Some("leave the key out for the default".to_owned()),
            ),
            n if n > most => {
                self.none(format!("`{}` has more than {most} elements", self.path), None)
            }
            _ => Some(elements),
        }
    }

    /// A list of texts that `T` parses, without repetitions.
    pub fn parsed_list<T: FromStr<Err: Display> + PartialEq>(&self, most: usize) -> Option<Vec<T>> {
        let elements = self.list(most)?;
        let mut out: Vec<T> = Vec::with_capacity(elements.len());
        let mut whole = true;
        for element in &elements {
            match element.parse::<T>() {
                Some(value) if out.contains(&value) => {
                    element.fail(
                        format!("{} is there twice", quote(element.str().unwrap_or_default())),
                        None,
                    );
                    whole = false;
                }
                Some(value) => out.push(value),
                None => whole = false,
            }
        }
        whole.then_some(out)
    }

    /// A command line: a list of strings (no shell), the first not empty.
    pub fn argv(&self) -> Option<Vec<String>> {
        if matches!(self.node, Node::Value(Value::String(_))) {
            return self.none(
                format!("`{}` must be a list of words: no shell reads it", self.path),
                Some("such as [\"gh\", \"auth\", \"token\"], or [\"sh\", \"-c\", \"…\"] where you want one".to_owned()),
            );
        }
        let elements = self.list(256)?;
        let words: Option<Vec<String>> = elements
            .iter()
            .map(|e| match e.str()? {
                s if s.contains('\0') => e.none("a command's words cannot hold NUL", None),
                s => Some(s.to_owned()),
            })
            .collect();
        match words {
            Some(words) if words.first().is_some_and(|w| w.trim().is_empty()) => {
                self.none(format!("`{}` names no program", self.path), None)
            }
            words => words,
        }
    }
}

fn article(noun: &str) -> &'static str {
    if noun.starts_with(['a', 'i']) { "an" } else { "a" }
}
