//! Answers to the guest.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::Response;
use http::header::{CONTENT_TYPE, HeaderValue, RETRY_AFTER};
use http_body_util::Full;
use hyper::body::{Body, Frame, SizeHint};

use super::download::Download;
use crate::egress::audit::RequestAudit;
use crate::egress::refusal::{Refusal, Rule};

/// The body of an answer to the guest.
pub enum Reply {
    /// A short text.
    Text(Full<Bytes>),
    /// The upstream's body.
    Stream(Box<Download>),
}

impl Body for Reply {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        match self.get_mut() {
            Self::Text(text) => Pin::new(text).poll_frame(cx).map_err(|never| match never {}),
            Self::Stream(download) => download.poll(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Text(text) => text.is_end_stream(),
            Self::Stream(download) => download.is_done(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Text(text) => text.size_hint(),
            Self::Stream(download) => download.size_hint(),
        }
    }
}

/// Header of every refusal: the code of its rule.
pub const REFUSED: &str = "x-bottle-refused";

/// Answers with a refusal, and writes its audit line.
pub fn refuse(refusal: &Refusal, mut audit: RequestAudit) -> Response<Reply> {
    audit.set_status(refusal.rule.status().as_u16());
    audit.fail(refusal);
    let mut response = Response::new(Reply::Text(Full::new(Bytes::from(refusal.body()))));
    *response.status_mut() = refusal.rule.status();
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    headers.insert(REFUSED, HeaderValue::from_static(refusal.rule.code()));
    if refusal.rule == Rule::Rate {
        headers.insert(RETRY_AFTER, HeaderValue::from_static("1"));
    }
    response
}
