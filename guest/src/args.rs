//! Command-line arguments, without a parser crate: see main.rs.

/// Parses `--name value`, `--name=value` and the bare flags in `flags`, in order.
///
/// # Errors
/// When an argument does not start with `--`, or a name that is not in `flags` has no value.
pub fn options(args: &[String], flags: &[&str]) -> Result<Vec<(String, String)>, String> {
    let mut found = Vec::new();
    let mut args = args.iter();
    while let Some(arg) = args.next() {
        let name = arg.strip_prefix("--").ok_or_else(|| format!("unexpected argument {arg}"))?;
        if flags.contains(&name) {
            found.push((name.to_owned(), String::new()));
        } else if let Some((name, value)) =
            name.split_once('=').filter(|(name, _)| !name.is_empty())
        {
            found.push((name.to_owned(), value.to_owned()));
        } else {
            let value = args.next().ok_or_else(|| format!("{arg} needs a value"))?;
            found.push((name.to_owned(), value.clone()));
        }
    }
    Ok(found)
}

/// `value` of the option `--name` as a number.
///
/// # Errors
/// When it is not a number or out of range.
pub fn number<T: std::str::FromStr>(name: &str, value: &str) -> Result<T, String> {
    value.parse().map_err(|_| format!("--{name}: {value} is not a number in range"))
}
