//! Ordinary traffic and ordinary files, of which nothing may be refused at default settings. They
//! are generated, the same each time, after what real ones look like.

// What a `map` writes here is short, and reads better so.
#![allow(clippy::expect_used, clippy::format_collect)]

mod common;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use bottle_policy::{Action, Scan};
use bottle_scan::{Direction, Profile, Scanner};
use common::{Random, pass};

const WORDS: &[&str] = &[
    "request",
    "buffer",
    "index",
    "token",
    "secret",
    "password",
    "stream",
    "parse",
    "config",
    "client",
    "server",
    "handler",
    "packet",
    "module",
    "version",
    "release",
    "package",
    "license",
    "author",
    "keyword",
    "registry",
    "resolve",
    "access",
    "session",
    "cookie",
    "header",
    "bearer",
    "workspace",
    "developer",
    "machine",
    "example",
    "ghp_",
    "sk-learn",
    "npm_config",
    "AKIA",
    "hf_",
];

fn bytes(random: &mut Random, len: usize) -> Vec<u8> {
    (0..len).map(|_| u8::try_from(random.below(256)).expect("a byte")).collect()
}

fn hex(random: &mut Random, digits: usize) -> String {
    hex::encode(bytes(random, digits / 2))
}

fn uuid(random: &mut Random) -> String {
    let h = hex(random, 32);
    format!("{}-{}-4{}-a{}-{}", &h[..8], &h[8..12], &h[13..16], &h[17..20], &h[20..])
}

fn words(random: &mut Random, n: usize, between: &str) -> String {
    (0..n).map(|_| *random.pick(WORDS)).collect::<Vec<_>>().join(between)
}

fn integrity(random: &mut Random) -> String {
    format!("sha512-{}", STANDARD.encode(bytes(random, 64)))
}

fn alphanumeric(random: &mut Random, len: usize) -> String {
    let digits = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";
    (0..len).map(|_| char::from(*random.pick(digits))).collect()
}

fn npm_metadata(r: &mut Random) -> String {
    let versions: Vec<String> = (0..8)
        .map(|i| {
            let name = words(r, 2, "-");
            format!(
                r#""1.{i}.0":{{"name":"{name}","version":"1.{i}.0","gitHead":"{}","dist":{{"integrity":"{}","shasum":"{}","tarball":"https://registry.example.org/{name}/-/{name}-1.{i}.0.tgz","signatures":[{{"keyid":"SHA256:{}","sig":"MEUCIQ{}"}}]}},"_npmUser":{{"name":"{}","email":"a@example.com"}}}}"#,
                hex(r, 40),
                integrity(r),
                hex(r, 40),
                STANDARD.encode(bytes(r, 32)).trim_end_matches('='),
                STANDARD.encode(bytes(r, 68)),
                words(r, 1, "")
            )
        })
        .collect();
    format!(
        r#"{{"_id":"{}","_rev":"12-{}","versions":{{{}}}}}"#,
        words(r, 1, ""),
        hex(r, 32),
        versions.join(",")
    )
}

fn package_lock(r: &mut Random) -> String {
    (0..12)
        .map(|_| {
            let name = words(r, 2, "-");
            format!("    \"node_modules/{name}\": {{\n      \"version\": \"2.1.{}\",\n      \"resolved\": \"https://registry.example.org/{name}/-/{name}-2.1.0.tgz\",\n      \"integrity\": \"{}\"\n    }},\n", r.below(90), integrity(r))
        })
        .collect()
}

fn cargo_lock(r: &mut Random) -> String {
    (0..12)
        .map(|_| format!("[[package]]\nname = \"{}\"\nversion = \"0.{}.1\"\nsource = \"registry+https://github.com/rust-lang/crates.io-index\"\nchecksum = \"{}\"\n\n", words(r, 2, "-"), r.below(40), hex(r, 64)))
        .collect()
}

fn go_sum(r: &mut Random) -> String {
    (0..12)
        .map(|_| {
            format!(
                "github.com/{}/{} v1.{}.0 h1:{}\n",
                words(r, 1, ""),
                words(r, 1, ""),
                r.below(30),
                STANDARD.encode(bytes(r, 32))
            )
        })
        .collect()
}

fn poetry_lock(r: &mut Random) -> String {
    (0..10)
        .map(|_| {
            format!(
                "    {{file = \"{}-1.{}.tar.gz\", hash = \"sha256:{}\"}},\n",
                words(r, 2, "_"),
                r.below(9),
                hex(r, 64)
            )
        })
        .collect()
}

fn openapi(r: &mut Random) -> String {
    format!(
        r#"{{"openapi":"3.0.3","info":{{"title":"{}","version":"1.0"}},"components":{{"securitySchemes":{{"bearerAuth":{{"type":"http","scheme":"bearer","bearerFormat":"JWT"}}}},"schemas":{{"Login":{{"properties":{{"password":{{"type":"string","example":"correct horse battery staple"}},"api_key":{{"type":"string","description":"as in sk_live_...","example":"your-api-key"}},"access_token":{{"type":"string","example":"eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.eyJzdWIiOiIxMjM0NTY3ODkwIiwibmFtZSI6IkpvaG4gRG9lIiwiaWF0IjoxNTE2MjM5MDIyfQ.SflKxwRJSMeKKF2QT4fwpMeJf36POk6yJV_adQssw5c"}},"id":{{"type":"string","format":"uuid","example":"{}"}},"region":{{"enum":["ASIAPACIFICREGIONAL","EUROPE"]}},"url":{{"example":"https://user:password@example.com/path"}}}}}}}}}}}}"#,
        words(r, 3, " "),
        uuid(r)
    )
}

fn readme(r: &mut Random) -> String {
    format!(
        "# {0}\n\nSet `AWS_ACCESS_KEY_ID=AKIAIOSFODNN7EXAMPLE` and `AWS_SECRET_ACCESS_KEY=wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY`.\nA token begins with `ghp_`, `github_pat_` or `gho_`; an npm token with `npm_`. Stripe: `sk_test_4eC39HqLyjWDarjtT1zdp7dc`.\n\n```\nexport GITHUB_TOKEN=ghp_xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx\ncurl -H \"Authorization: Bearer $TOKEN\" https://api.example.com/{1}\npostgres://postgres:postgres@localhost:5432/{1}\npostgres://user:${{DB_PASSWORD}}@db/{1}\n```\n\n![badge](https://img.shields.io/badge/{1}-{2}?logo=data:image/png;base64,{3})\n\nPassword: at least 16 characters with letters and digits.\nA PEM file starts with -----BEGIN RSA PRIVATE KEY----- and has\nlines of Base64.\n\nmachine example.com login daniel password qwerty\n",
        words(r, 3, " "),
        words(r, 1, ""),
        hex(r, 8),
        STANDARD.encode(bytes(r, 300))
    )
}

fn source(r: &mut Random) -> String {
    format!(
        "const KEY: [u8; 32] = hex!(\"{0}\");\nlet expected = \"{1}\"; // SHA-256 of abc: ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad\nlet secret = &self.client_handshake_traffic_secret;\nlet password = settings.get(\"{2}\").unwrap_or_default();\nassert_eq!(encode(b\"{2}\"), \"{3}\");\nlet alphabet = \"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/\";\nfn access_token(&self) -> &str {{ &self.access_token_v2 }}\napi_key: str = Field(default=None, alias=\"{2}_api_key\")\nconst ID: &str = \"{4}\"; // {5}\nmask = 0xdeadbeefdeadbeef; path = \"\\u0067\\u0068 \\x41 \\n\"; text = \"Привет, мир: пароль и токен; 日本語のテキスト\";\n",
        hex(r, 64),
        hex(r, 64),
        words(r, 2, "_"),
        STANDARD.encode(words(r, 6, " ")),
        uuid(r),
        hex(r, 40)
    )
}

fn minified(r: &mut Random) -> String {
    (0..30)
        .map(|_| format!("function {0}(e,t){{var n=e.{1},r=t[\"{2}\"]||\"\";return n&&r?{{token:n,secret:r,password:e.p}}:{3}}}var {4}=\"{5}\";", alphanumeric(r, 2), words(r, 1, ""), words(r, 1, ""), r.below(99999), alphanumeric(r, 3), alphanumeric(r, 12)))
        .collect()
}

fn source_map(r: &mut Random) -> String {
    let mappings: String = (0..200).map(|_| format!("{},", alphanumeric(r, 4))).collect();
    format!(
        r#"{{"version":3,"sources":["{}.ts"],"names":["secret","token"],"mappings":"{mappings}"}}"#,
        words(r, 2, "/")
    )
}

fn image(r: &mut Random) -> String {
    format!(
        r#"{{"type":"image","source":{{"media_type":"image/png","data":"iVBORw0KGgo{}"}}}}"#,
        STANDARD.encode(bytes(r, 6000))
    )
}

fn model_request(r: &mut Random) -> String {
    let code = source(r).replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
    format!(
        r#"{{"model":"m","session_id":"{}","messages":[{{"role":"user","content":"{code}"}},{{"role":"tool","tool_call_id":"call_{}","content":"{}"}}]}}"#,
        uuid(r),
        alphanumeric(r, 24),
        words(r, 40, " ")
    )
}

fn form(r: &mut Random) -> String {
    format!(
        "grant_type=refresh&client={}&scope=openid%20profile%20email&state={}&redirect_uri=http%3A%2F%2Flocalhost%3A3000%2Fcb&code_challenge={}",
        words(r, 1, ""),
        alphanumeric(r, 22),
        URL_SAFE_NO_PAD.encode(bytes(r, 32))
    )
}

fn git_objects(r: &mut Random) -> String {
    (0..20)
        .map(|_| format!("{} {} refs/heads/{}\n", hex(r, 40), hex(r, 40), words(r, 2, "-")))
        .collect()
}

fn target(r: &mut Random) -> String {
    match r.below(8) {
        0 => format!("/@{}%2f{}", words(r, 1, ""), words(r, 1, "")),
        1 => format!("/repos/{}/commits/{}", words(r, 2, "/"), hex(r, 40)),
        2 => format!("/v1/objects/{}?cursor={}", uuid(r), URL_SAFE_NO_PAD.encode(bytes(r, 24))),
        3 => format!("/v2/{}/blobs/sha256:{}", words(r, 1, ""), hex(r, 64)),
        4 => format!("/simple/{}/?format=json&q={}", words(r, 1, ""), words(r, 3, "+")),
        5 => format!("/{}.git/info/refs?service=git-upload-pack", words(r, 2, "/")),
        6 => format!("/search?q={}%20AND%20{}&page=2", words(r, 1, ""), words(r, 1, "")),
        _ => format!(
            "/packages/{}/{}/{}-1.0-py3-none-any.whl",
            &hex(r, 2),
            hex(r, 60),
            words(r, 1, "")
        ),
    }
}

fn headers(r: &mut Random) -> Vec<(&'static str, String)> {
    vec![
        ("user-agent", "npm/10.8.2 node/v20.17.0 linux x64 workspaces/false".into()),
        (
            "accept",
            "application/vnd.npm.install-v1+json; q=1.0, application/json; q=0.8, */*".into(),
        ),
        ("npm-command", "install".into()),
        ("x-request-id", uuid(r)),
        ("if-none-match", format!("\"{}\"", hex(r, 32))),
        ("traceparent", format!("00-{}-{}-01", hex(r, 32), hex(r, 16))),
        ("cookie", format!("session={}; theme=dark", alphanumeric(r, 32))),
        ("digest", format!("SHA-256={}", STANDARD.encode(bytes(r, 32)))),
        ("authorization", format!("Bearer {}", alphanumeric(r, 40))),
    ]
}

fn refused(profile: &Profile, body: &str) -> Vec<String> {
    let found = pass(profile, Direction::Request, "", body.as_bytes(), &[]).found;
    let blocks = found.into_iter().filter(|f| f.action == Action::Block);
    blocks
        .map(|f| {
            let at = usize::try_from(f.offset).expect("a place");
            format!("{}: {:?}", f.rule, body.get(at..(at + 80).min(body.len())))
        })
        .collect()
}

type Kind = (&'static str, fn(&mut Random) -> String);

/// Bodies of requests, and files.
const KINDS: [Kind; 15] = [
    ("npm metadata", npm_metadata),
    ("package-lock.json", package_lock),
    ("Cargo.lock", cargo_lock),
    ("go.sum", go_sum),
    ("poetry.lock", poetry_lock),
    ("OpenAPI", openapi),
    ("README", readme),
    ("source", source),
    ("minified JavaScript", minified),
    ("source map", source_map),
    ("image", image),
    ("request to a model", model_request),
    ("form", form),
    ("refs", git_objects),
    ("prose", |r| words(r, 300, " ")),
];

#[test]
fn nothing_benign_is_refused() {
    let scanner = Scanner::new(&[]);
    let profile = scanner.profile_elsewhere(&Scan::default()).expect("profile");
    let mut random = Random(11);
    let (mut requests, mut wrong) = (0, Vec::new());
    for _ in 0..24 {
        for (kind, write) in KINDS {
            requests += 1;
            let mut found = refused(&profile, &write(&mut random));
            let target = target(&mut random);
            let mut texts = profile.target(Direction::Request, target.as_bytes());
            let headers = headers(&mut random);
            for (name, value) in &headers {
                texts.extend(profile.header(Direction::Request, name, value.as_bytes()));
                texts.extend(profile.text_any_case(Direction::Request, name.as_bytes()));
            }
            let values: Vec<&[u8]> = headers.iter().map(|(_, value)| value.as_bytes()).collect();
            texts.extend(profile.joined(Direction::Request, &values));
            let blocks = texts.iter().filter(|f| f.action == Action::Block);
            found.extend(blocks.map(|f| format!("{} in {target} or {headers:?}", f.rule)));
            if !found.is_empty() {
                wrong.push((kind, found));
            }
        }
    }
    println!("benign: {requests} requests, {} refused", wrong.len());
    assert!(wrong.is_empty() && requests >= 300, "{wrong:#?}");

    // What a push would say of the same files, in the gate's way: nothing ends a file.
    let (mut files, mut wrong) = (0, Vec::new());
    for _ in 0..16 {
        for (kind, write) in KINDS {
            files += 1;
            let found = refused(&profile, &write(&mut random));
            if !found.is_empty() {
                wrong.push((kind, found));
            }
        }
    }
    println!("benign: {files} files of pushes, {} refused", wrong.len());
    assert!(wrong.is_empty() && files >= 200, "{wrong:#?}");
}

#[test]
fn the_same_files_with_a_token_are_refused() {
    let scanner = Scanner::new(&[]);
    let profile = scanner.profile_elsewhere(&Scan::default()).expect("profile");
    let mut random = Random(12);
    for (kind, write) in KINDS {
        let mut body = write(&mut random);
        body.push_str(" 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 ");
        assert!(!refused(&profile, &body).is_empty(), "{kind}");
    }
}
