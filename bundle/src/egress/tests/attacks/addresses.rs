//! The table of tests/attacks/egress/addresses.rs.

use tokio::io::AsyncWriteExt;

use super::super::harness::{Bench, Upstream, response};
use crate::egress::refusal::{Checks, Rule};
use crate::egress::request::authority::Authority;
use crate::egress::upstream::resolver::Resolver;

#[path = "../../../../../tests/attacks/egress/addresses.rs"]
mod cases;
use cases::HOSTS;

#[tokio::test]
async fn no_route_leads_to_an_address_that_is_not_public_unless_it_says_so() {
    let plain = Upstream::start(&[], false).await;
    let mut wrong = Vec::new();
    for host in HOSTS {
        let mut route = plain.route("r", host);
        (route.tls, route.port, route.connect) = (false, 80, None);
        let bench = Bench::start(vec![route]);
        let to = Authority { host: route_spelling(host), port: 80 };
        let mut io = bench.connect().await;
        let authority = to.host_header(80);
        io.write_all(
            format!("GET http://{authority}/ HTTP/1.1\r\nHost: {authority}\r\n\r\n").as_bytes(),
        )
        .await
        .unwrap();
        let answer = response(&mut io).await;
        if !answer.starts_with("HTTP/1.1 403")
            || !answer.contains("[address]")
            || bench.audit(1).await[0]["rule"] != "address"
        {
            wrong.push(format!("{host}: {answer}"));
        }
        // The negative control does not connect there, it only shows that it would.
        let open = Checks::without(&[Rule::Address]);
        if Resolver::default().addresses(&to, false, &open).await.is_err() {
            wrong.push(format!("{host}, without: refused all the same"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

fn route_spelling(host: &str) -> String {
    host.parse::<bottle_policy::HostPattern>().unwrap().as_str().to_owned()
}
