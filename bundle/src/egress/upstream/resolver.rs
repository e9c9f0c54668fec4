//! From a host to the addresses that may be connected to.

use std::net::{IpAddr, SocketAddr};
use std::sync::OnceLock;

use hickory_resolver::config::LookupIpStrategy;
use hickory_resolver::{ResolveError, TokioResolver};

use super::address;
use crate::egress::refusal::{Checks, Refusal, Rule};
use crate::egress::request::authority::Authority;

/// Name lookup as the system is configured: resolv.conf and the hosts file.
#[derive(Default)]
pub struct Resolver(OnceLock<Result<TokioResolver, ResolveError>>);

impl Resolver {
    /// The permitted addresses of `to`, IPv4 first. The caller connects to these and looks nothing up
    /// again, so a second lookup with another answer (DNS rebinding) has no effect.
    ///
    /// # Errors
    /// [`Rule::Resolve`], or [`Rule::Address`] if the bottle may reach none of the addresses.
    pub async fn addresses(
        &self,
        to: &Authority,
        allow_private: bool,
        checks: &Checks,
    ) -> Result<Vec<SocketAddr>, Refusal> {
        let all = match to.ip() {
            Some(ip) => vec![ip],
            None => self.lookup(&to.host).await?,
        };
        public_only(to, &all, allow_private, checks)
    }

    async fn lookup(&self, host: &str) -> Result<Vec<IpAddr>, Refusal> {
        let failed = |e: &dyn std::fmt::Display| {
            Refusal::new(Rule::Resolve, format!("cannot find {host}: {e}"))
        };
        let resolver = self.0.get_or_init(|| {
            let mut builder = TokioResolver::builder_tokio()?;
            builder.options_mut().ip_strategy = LookupIpStrategy::Ipv4AndIpv6;
            Ok(builder.build())
        });
        let resolver = resolver.as_ref().map_err(|e| failed(e))?;
        // A dotted name is complete. Without the final dot, the system's search list could turn it
        // into another name.
        let name = if host.contains('.') { format!("{host}.") } else { host.to_owned() };
        let found = resolver.lookup_ip(name).await.map_err(|e| failed(&e))?;
        Ok(found.iter().collect())
    }
}

/// The addresses of `all` that the bottle may connect to.
fn public_only(
    to: &Authority,
    all: &[IpAddr],
    allow_private: bool,
    checks: &Checks,
) -> Result<Vec<SocketAddr>, Refusal> {
    let bad = |ip: &IpAddr| if allow_private { None } else { address::refuse(*ip) };
    let refused = || {
        let first = all.iter().find_map(|ip| bad(ip).map(|why| format!("{ip} ({why})")));
        first.unwrap_or_else(|| "no address".to_owned())
    };
    let mut good: Vec<SocketAddr> =
        all.iter().filter(|ip| bad(ip).is_none()).map(|ip| SocketAddr::new(*ip, to.port)).collect();
    let hint = "to allow it, in bottle.toml, in the route: allow_private = true";
    checks
        .refuse_if(good.is_empty(), Rule::Address, || format!("{} leads to {}", to.host, refused()))
        .map_err(|r| {
            if all.is_empty() {
                Refusal::new(Rule::Resolve, format!("{} has no address", to.host))
            } else {
                r.hint(hint)
            }
        })?;
    if good.is_empty() {
        // Only in a negative control, with the check disabled.
        good = all.iter().map(|ip| SocketAddr::new(*ip, to.port)).collect();
    }
    good.sort_by_key(SocketAddr::is_ipv6);
    Ok(good)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_mixed_answer_only_the_public_part_is_used() {
        let to = Authority { host: "rebind.example".into(), port: 443 };
        let all: Vec<IpAddr> = ["127.0.0.1", "2606:4700::1", "8.8.8.8", "10.0.0.1"]
            .iter()
            .map(|a| a.parse().unwrap())
            .collect();
        let got = public_only(&to, &all, false, &Checks::default()).unwrap();
        assert_eq!(
            got.iter().map(ToString::to_string).collect::<Vec<_>>(),
            ["8.8.8.8:443", "[2606:4700::1]:443"]
        );
        assert_eq!(public_only(&to, &all, true, &Checks::default()).unwrap().len(), 4);
        assert_eq!(
            public_only(&to, &all[..1], false, &Checks::default()).unwrap_err().rule,
            Rule::Address
        );
        assert_eq!(
            public_only(&to, &[], false, &Checks::default()).unwrap_err().rule,
            Rule::Resolve
        );
    }
}
