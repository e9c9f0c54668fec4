//! Requests over the limits of a route. The route is for `*.api.test` and has max_body 1000, budget
//! 5000 up and 5000 down, rate 5/m.

use super::Rule;

/// Name, rule, and the requests, the last of which is refused: host, method, length of the path and
/// of the body in bytes, and whether the body is chunked.
#[derive(Debug)]
pub struct Case(
    pub &'static str,
    pub Rule,
    pub &'static [(&'static str, &'static str, usize, usize, bool)],
);

const HOST: &str = "x.api.test";

#[rustfmt::skip]
pub const CASES: &[Case] = &[
    Case("a body too large by its length", Rule::MaxBody, &[(HOST, "POST", 1, 1001, false)]),
    Case("a body too large by its chunks", Rule::MaxBody, &[(HOST, "POST", 1, 1001, true)]),
    Case("bodies over the budget", Rule::Budget, &[(HOST, "POST", 1500, 900, false), (HOST, "POST", 1500, 900, false), (HOST, "POST", 1500, 900, false)]),
    Case("paths over the budget", Rule::Budget, &[(HOST, "GET", 2400, 0, false), (HOST, "GET", 2400, 0, false), (HOST, "GET", 2400, 0, false)]),
    Case("one path over the budget", Rule::Budget, &[(HOST, "GET", 5001, 0, false)]),
    Case("answers over the budget", Rule::Budget, &[(HOST, "GET", 0, 0, false)]),
    Case("requests over the rate", Rule::Rate, &[(HOST, "GET", 1, 0, false), (HOST, "GET", 1, 0, false), (HOST, "GET", 1, 0, false), (HOST, "GET", 1, 0, false), (HOST, "GET", 1, 0, false), (HOST, "GET", 1, 0, false)]),
    Case("base32 in a host name", Rule::DnsLabel, &[("mfrggzdfmztwq2lknnwg23tpobyxe43u.api.test", "GET", 1, 0, false)]),
    Case("hex in a host name", Rule::DnsLabel, &[("736b2d616e742d6170693033.api.test", "GET", 1, 0, false)]),
    Case("a long label in a host name", Rule::DnsLabel, &[("aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa.api.test", "GET", 1, 0, false)]),
    Case("many labels in a host name", Rule::DnsLabel, &[("a1.b2.c3.d4.e5.f6.g7.h8.i9.j1.k2.l3.m4.n5.o6.p7.q8.r9.s1.t2.u3.v4.w5.x6.y7.z8.a1.b2.c3.d4.e5.f6.g7.h8.i9.j1.k2.l3.m4.n5.api.test", "GET", 1, 0, false)]),
];
