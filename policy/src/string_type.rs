//! Types that wrap a checked string, and the error of those that git-gate uses.

/// Why a text was refused: what it should have been, and in what form.
#[derive(Debug, thiserror::Error)]
#[error("not {what}: {text:?} ({form})")]
pub struct GateTextError {
    pub(crate) what: &'static str,
    pub(crate) text: String,
    pub(crate) form: &'static str,
}

/// Implements `TryFrom<String>` (by the type's `FromStr`), `From<Type> for String` and `Display`
/// for newtypes over `String`.
macro_rules! string_type {
    ($($type:ty: $error:ty),*) => {$(
        impl TryFrom<String> for $type {
            type Error = $error;
            fn try_from(s: String) -> Result<Self, Self::Error> { s.parse() }
        }
        impl From<$type> for String {
            fn from(value: $type) -> Self { value.0 }
        }
        impl std::fmt::Display for $type {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(&self.0)
            }
        }
    )*};
}
pub(crate) use string_type;
