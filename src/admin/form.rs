//! The parameters of an order: of its query, and of a small form (`application/x-www-form-urlencoded`) in its body.

use std::time::Duration;

use http::{HeaderMap, header};
use percent_encoding::percent_decode_str;
use pingora::protocols::http::ServerSession;
use tokio::time::timeout;

use super::guard::Refused;
use crate::edge::Connection;
use crate::framing::Body;

/// Names and values, decoded. A value may have any bytes: paths do.
#[derive(Debug, Default)]
pub struct Form(Vec<(String, Vec<u8>)>);

impl Form {
    /// Takes `pairs` apart: `a=1&b=2`. A plus is a space only in a `body`, where browsers put it.
    pub fn parse(pairs: &str, body: bool) -> Form {
        let decode = |text: &str| -> Vec<u8> {
            let text = if body { text.replace('+', " ") } else { text.to_owned() };
            percent_decode_str(&text).collect()
        };
        let pair = |pair: &str| {
            let (name, value) = pair.split_once('=')?;
            Some((name.to_owned(), decode(value)))
        };
        Form(pairs.split('&').filter_map(pair).collect())
    }

    /// The first value of this name.
    pub fn bytes(&self, name: &str) -> Option<&[u8]> {
        self.0.iter().find(|(own, _)| own == name).map(|(_, value)| value.as_slice())
    }

    /// The same, where it is UTF-8.
    pub fn text(&self, name: &str) -> Option<&str> {
        std::str::from_utf8(self.bytes(name)?).ok()
    }
}

/// How long the body is, as the head says it.
///
/// # Errors
/// When it is too long or its length is not told: nothing of it is to be read.
pub fn length(headers: &HeaderMap) -> Result<u64, Refused> {
    if headers.contains_key(header::TRANSFER_ENCODING) {
        return Err(Refused::Chunked);
    }
    let Some(length) = headers.get(header::CONTENT_LENGTH) else { return Ok(0) };
    let digits = length.to_str().ok().filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()));
    let length = digits.and_then(|text| text.parse().ok()).filter(|length| *length <= MOST_BODY);
    length.ok_or(Refused::TooLong)
}

/// Reads the body of a request whose head is read, and has the connection know where the next one begins.
///
/// # Errors
/// When it cannot be had whole and soon. The connection has to be closed then.
pub async fn read(session: &mut ServerSession) -> Result<Form, Refused> {
    let length = length(&session.req_header().headers);
    if let Some(connection) = Connection::of(session.stream()) {
        // What is refused unread closes the connection.
        let body = Body::Length(*length.as_ref().unwrap_or(&0));
        connection.begin_request(body).map_err(|_| Refused::Chunked)?;
    }
    let query = session.req_header().uri.query().unwrap_or_default().to_owned();
    let mut form = Form::parse(&query, false);
    if length? == 0 {
        return Ok(form);
    }
    let mut body = Vec::new();
    let whole = async {
        while let Some(piece) = session.read_request_body().await.map_err(|_| Refused::Cut)? {
            body.extend_from_slice(&piece);
            if body.len() as u64 > MOST_BODY {
                return Err(Refused::TooLong);
            }
        }
        Ok(())
    };
    timeout(PATIENCE, whole).await.map_err(|_| Refused::Cut)??;
    let body = String::from_utf8(body).unwrap_or_default();
    form.0.extend(Form::parse(&body, true).0);
    Ok(form)
}

/// A path may be long; nothing else is.
const MOST_BODY: u64 = 4096;
const PATIENCE: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_form_is_decoded() {
        let form = Form::parse("path=/a+b%2f%e7%8c%ab&token=x%2By&empty=&odd&path=/second&raw=%ff", true);
        assert_eq!(form.text("path"), Some("/a b/猫"));
        assert_eq!(form.text("token"), Some("x+y"));
        assert_eq!((form.text("empty"), form.text("odd"), form.text("no")), (Some(""), None, None));
        assert_eq!((form.text("raw"), form.bytes("raw")), (None, Some(&b"\xff"[..])));
        assert_eq!(Form::parse("path=/a+b", false).text("path"), Some("/a+b"));
    }

    #[test]
    fn a_body_is_short_and_of_known_length() {
        const CASES: &[(&str, &str, Option<u64>)] = &[
            ("x-none", "", Some(0)),
            ("content-length", "0", Some(0)),
            ("content-length", "4096", Some(4096)),
            ("content-length", "4097", None),
            ("content-length", "-1", None),
            ("content-length", "+5", None),
            ("content-length", "99999999999999999999999", None),
            ("transfer-encoding", "chunked", None),
        ];
        for (name, value, expected) in CASES {
            let mut headers = HeaderMap::new();
            headers.insert(*name, value.parse().unwrap());
            assert_eq!(length(&headers).ok(), *expected, "{name}: {value}");
        }
    }
}
