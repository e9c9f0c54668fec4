pub fn main(_args: &[String]) -> Result<std::process::ExitCode, String> {
    Err("todo".into())
}
