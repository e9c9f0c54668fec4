//! An approved proposal as an edit of the manifest's text, which keeps its order, comments and
//! form.

use bottle_policy::{Ask, RouteAsk};
use toml_edit::{Array, ArrayOfTables, DocumentMut, InlineTable, Item, Table, TableLike, Value};

use crate::error::{Error, ErrorKind, Result};

/// `text` with `ask` in the bottle named `bottle`. `route` is what was approved when `ask` is for a
/// route.
///
/// # Errors
/// `Config` when the manifest has no such bottle, or there is no place for this in it.
pub fn edit_manifest(
    text: &str,
    bottle: &str,
    ask: &Ask,
    route: Option<&RouteAsk>,
) -> Result<String> {
    let bad =
        |why: &str| Error::new(ErrorKind::Config, format!("the manifest cannot be changed: {why}"));
    let mut doc: DocumentMut = text.parse().map_err(|e: toml_edit::TomlError| bad(e.message()))?;
    let table = doc
        .get_mut("bottles")
        .and_then(|b| b.as_table_like_mut()?.get_mut(bottle)?.as_table_like_mut());
    let table = table.ok_or_else(|| bad(&format!("it has no [bottles.{bottle}]")))?;
    match (ask, route) {
        (Ask::Route(_), Some(route)) => add(table, "egress", route_keys(route)),
        (Ask::GitUpstream { url, branches }, _) => {
            let mut keys = vec![("url", Value::from(url.as_str()))];
            if !branches.is_empty() {
                keys.push(("branches", texts(branches.iter().map(|b| String::from(b.clone())))));
            }
            add(table, "git", keys)
        }
        (Ask::Ref { upstream, branches }, _) => {
            let name = String::from(upstream.clone());
            let entry = tables(table, "git")
                .into_iter()
                .find(|t| named(*t, &name))
                .ok_or_else(|| bad(&format!("it has no git upstream {name}")))?;
            let list = entry.entry("branches").or_insert(Item::Value(Value::Array(Array::new())));
            let list = list.as_array_mut().ok_or_else(|| bad("branches is no list"))?;
            branches.iter().for_each(|b| list.push(String::from(b.clone())));
            Ok(())
        }
        (Ask::Finding { upstream, fingerprint }, _) => {
            let name = String::from(upstream.clone());
            let entry = tables(table, "git")
                .into_iter()
                .find(|t| named(*t, &name))
                .ok_or_else(|| bad(&format!("it has no git upstream {name}")))?;
            let list = entry.entry("allow").or_insert(Item::Value(Value::Array(Array::new())));
            list.as_array_mut()
                .ok_or_else(|| bad("allow is no list"))?
                .push(String::from(fingerprint.clone()));
            Ok(())
        }
        _ => Err("it has no key for this"),
    }
    .map_err(bad)?;
    Ok(doc.to_string())
}

fn route_keys(r: &RouteAsk) -> Vec<(&'static str, Value)> {
    let mut keys = vec![("host", Value::from(r.host.as_str()))];
    if r.port != if r.tls { 443 } else { 80 } {
        keys.push(("port", Value::from(i64::from(r.port))));
    }
    keys.push(("methods", texts(r.methods.iter().map(ToString::to_string))));
    keys.push(("paths", texts(r.paths.iter().map(ToString::to_string))));
    if !r.tls {
        keys.push(("tls", Value::from(false)));
    }
    if r.route(String::new()).allow_private {
        keys.push(("allow_private", Value::from(true)));
    }
    keys
}

fn texts(items: impl Iterator<Item = String>) -> Value {
    Value::Array(items.collect())
}

/// Appends an element to the list `key`, in the form that the list has.
fn add(
    table: &mut dyn TableLike,
    key: &str,
    mut keys: Vec<(&'static str, Value)>,
) -> Result<(), &'static str> {
    // A route is named after its host unless it says something else, and names are unique.
    if let Some(host) =
        keys.iter().find(|(k, _)| *k == "host").and_then(|(_, v)| v.as_str()).map(str::to_owned)
    {
        let taken: Vec<String> = tables(table, key)
            .into_iter()
            .filter_map(|t| text_of(t, "name").or_else(|| text_of(t, "host")))
            .collect();
        if taken.contains(&host) {
            let free = (2..)
                .map(|n| format!("{}-{n}", host.trim_start_matches("*.").replace(':', "-")))
                .find(|n| !taken.contains(n));
            keys.insert(0, ("name", Value::from(free.unwrap_or_default())));
        }
    }
    let list = table.entry(key).or_insert_with(|| Item::ArrayOfTables(ArrayOfTables::new()));
    match list {
        Item::ArrayOfTables(list) => {
            let mut element = Table::new();
            element.decor_mut().set_prefix("\n");
            keys.into_iter().for_each(|(k, v)| drop(element.insert(k, Item::Value(v))));
            list.push(element);
            Ok(())
        }
        Item::Value(Value::Array(list)) => {
            let mut element = InlineTable::new();
            keys.into_iter().for_each(|(k, v)| drop(element.insert(k, v)));
            list.push(Value::InlineTable(element));
            Ok(())
        }
        _ => Err("the list has a form that it should not have"),
    }
}

fn tables<'a>(table: &'a mut dyn TableLike, key: &str) -> Vec<&'a mut dyn TableLike> {
    match table.get_mut(key) {
        Some(Item::ArrayOfTables(list)) => {
            list.iter_mut().map(|t| t as &mut dyn TableLike).collect()
        }
        Some(Item::Value(Value::Array(list))) => list
            .iter_mut()
            .filter_map(|v| v.as_inline_table_mut().map(|t| t as &mut dyn TableLike))
            .collect(),
        _ => Vec::new(),
    }
}

fn text_of(table: &dyn TableLike, key: &str) -> Option<String> {
    table.get(key)?.as_str().map(str::to_owned)
}

/// A repository's own name, or the end of its URL.
fn named(table: &dyn TableLike, name: &str) -> bool {
    let url = || {
        let url = text_of(table, "url")?;
        let last = url.trim_end_matches('/').rsplit(['/', ':']).next()?.to_owned();
        Some(last.strip_suffix(".git").map(str::to_owned).unwrap_or(last))
    };
    text_of(table, "name").or_else(url).as_deref() == Some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn route(host: &str) -> RouteAsk {
        RouteAsk {
            host: host.parse().unwrap(),
            port: 443,
            methods: vec!["GET".parse().unwrap()],
            paths: vec!["/x".parse().unwrap()],
            tls: true,
        }
    }

    fn with(text: &str, host: &str) -> String {
        edit_manifest(text, "dev", &Ask::Route(route(host)), Some(&route(host))).unwrap()
    }

    #[test]
    fn what_was_there_stays_as_it_was() {
        let text = "# mine\nversion = 1 # one\n\n[bottles.dev] # the bottle\nimage = 'demo'\n\n# why\n[[bottles.dev.egress]]\nhost = \"a.test\"   # odd   spaces\n\n[bottles.other]\nimage = \"x\"\n";
        let new = with(text, "b.test");
        let added =
            "\n[[bottles.dev.egress]]\nhost = \"b.test\"\nmethods = [\"GET\"]\npaths = [\"/x\"]\n";
        assert!(new.contains(added), "{new}");
        assert_eq!(new.replacen(added, "", 1), text, "and nothing else");
        assert!(with(&new, "b.test").contains("name = \"b.test-2\"\nhost = \"b.test\""));
    }

    #[test]
    fn each_form_of_a_list_is_kept() {
        let inline =
            with("version = 1\n[bottles.dev]\negress = [{ host = \"a.test\" }]\n", "b.test");
        assert!(
            inline.contains("egress = [{ host = \"a.test\" }, { host = \"b.test\", methods = [\"GET\"], paths = [\"/x\"] }]"),
            "{inline}"
        );
        let none = with("version = 1\n[bottles.dev]\nimage = \"demo\"\n", "b.test");
        assert!(none.contains("[[bottles.dev.egress]]"), "{none}");
        for text in [&inline, &none] {
            let read = crate::manifest::parse(
                text.as_bytes(),
                std::path::Path::new("bottle.toml"),
                &crate::manifest::MemFiles::default(),
            );
            assert!(read.is_ok(), "{text}\n{read:?}");
        }
        assert!(
            edit_manifest(
                "version = 1\n",
                "dev",
                &Ask::Route(route("a.test")),
                Some(&route("a.test"))
            )
            .is_err()
        );
    }

    #[test]
    fn a_branch_goes_to_its_repository() {
        let text = "version = 1\n[bottles.dev]\n[[bottles.dev.git]]\nurl = \"https://h.test/me/x.git\"\nbranches = [\"a\"] # so far\n";
        let ask =
            Ask::Ref { upstream: "x".parse().unwrap(), branches: vec!["b/*".parse().unwrap()] };
        assert!(
            edit_manifest(text, "dev", &ask, None)
                .unwrap()
                .contains("branches = [\"a\", \"b/*\"] # so far")
        );
        let other =
            Ask::Ref { upstream: "y".parse().unwrap(), branches: vec!["b".parse().unwrap()] };
        assert!(edit_manifest(text, "dev", &other, None).is_err());
        let url =
            Ask::GitUpstream { url: "https://h.test/me/z".parse().unwrap(), branches: Vec::new() };
        assert!(
            edit_manifest(text, "dev", &url, None)
                .unwrap()
                .contains("[[bottles.dev.git]]\nurl = \"https://h.test/me/z\"\n")
        );
    }
}
