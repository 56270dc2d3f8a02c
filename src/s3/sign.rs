//! SigV4 for S3, for the one shape of request that we make: GET or HEAD, no query, no body.
//!
//! <https://docs.aws.amazon.com/AmazonS3/latest/API/sig-v4-header-based-auth.html>: the path is encoded
//! once and not normalised, and the payload's hash is itself a header. Only `host` and `x-amz-*` are
//! signed; `Range` and the conditionals may be added without breaking the signature.
//!
//! Keys and signatures are computed by `aws-sigv4`. The text that is signed is put together here, because the
//! crate's own signer takes no key that is there already, and is general where we are not: it takes thrice as
//! long. The tests hold every byte against that signer's.

use std::time::SystemTime;

use arc_swap::ArcSwapOption;
use aws_credential_types::Credentials;
use aws_sigv4::sign::v4::{calculate_signature, generate_signing_key};
use http::header::AUTHORIZATION;
use http::{HeaderName, HeaderValue, Method};
use jiff::Timestamp;
use sha2::{Digest, Sha256};

use crate::hex;

/// Signs what goes to one bucket.
pub struct Signer {
    credentials: Credentials,
    region: String,
    host: String,
    /// The key of the day that was last signed for. It depends on nothing else that changes.
    key: ArcSwapOption<DayKey>,
}

/// What a signature covers.
pub struct Described<'a> {
    pub fields: Vec<&'static str>,
    pub scope: String,
    pub access_key: &'a str,
}

/// As secret as the secret key, for a day: never printable.
struct DayKey {
    /// In UTC, as in the stamp: `20130524`.
    date: String,
    key: Box<[u8]>,
}

impl Signer {
    /// `host` is the `Host` that will be sent.
    pub fn new(credentials: &Credentials, region: &str, host: &str) -> Self {
        Signer {
            credentials: credentials.clone(),
            region: region.to_owned(),
            host: host.to_owned(),
            key: ArcSwapOption::empty(),
        }
    }

    /// The header fields to add to a GET or HEAD with no body so that S3 takes it as ours.
    ///
    /// `path` is the one that will be sent, encoded by [`crate::s3::key::encode`]. `time` is signed, and S3
    /// refuses one that is 15 minutes off.
    ///
    /// # Errors
    /// When the credentials have bytes that no header may have, or when `time` is beyond the year 9999.
    pub fn headers(
        &self,
        method: &Method,
        path: &str,
        time: SystemTime,
    ) -> anyhow::Result<Vec<(HeaderName, HeaderValue)>> {
        let stamp = Timestamp::try_from(time)?.strftime("%Y%m%dT%H%M%SZ").to_string();
        let token = self.credentials.session_token();
        let fields = [("host", self.host.as_str()), (CONTENT_SHA256, EMPTY_SHA256), (DATE, stamp.as_str())];
        let fields = fields.into_iter().chain(token.map(|token| (TOKEN, token)));
        let authorization = self.authorization(method, path, "", fields, &stamp, time);

        let secret = |text: &str| {
            HeaderValue::from_str(text).map(|mut value| {
                value.set_sensitive(true);
                value
            })
        };
        let mut headers = Vec::with_capacity(4);
        headers.push((HeaderName::from_static(DATE), HeaderValue::from_str(&stamp)?));
        headers.push((AUTHORIZATION, secret(&authorization)?));
        headers.push((HeaderName::from_static(CONTENT_SHA256), HeaderValue::from_static(EMPTY_SHA256)));
        if let Some(token) = token {
            headers.push((HeaderName::from_static(TOKEN), secret(token)?));
        }
        Ok(headers)
    }

    /// What [`Signer::headers`] would sign at this time, without what is secret: the fields' names in canonical order,
    /// the scope, and the access key's id.
    ///
    /// # Errors
    /// When `time` is beyond the year 9999.
    pub fn describe(&self, time: SystemTime) -> anyhow::Result<Described<'_>> {
        let date = Timestamp::try_from(time)?.strftime("%Y%m%d").to_string();
        let token = self.credentials.session_token().map(|_| TOKEN);
        Ok(Described {
            fields: ["host", CONTENT_SHA256, DATE].into_iter().chain(token).collect(),
            scope: self.scope(&date),
            access_key: self.credentials.access_key_id(),
        })
    }

    fn scope(&self, date: &str) -> String {
        format!("{date}/{}/s3/aws4_request", self.region)
    }

    /// The value of `Authorization`. `fields` are what is signed, by lower-case name in rising order.
    fn authorization<'a>(
        &self,
        method: &Method,
        path: &str,
        query: &str,
        fields: impl Iterator<Item = (&'a str, &'a str)>,
        stamp: &str,
        time: SystemTime,
    ) -> String {
        let mut request = format!("{method}\n{path}\n{query}\n");
        let mut signed = String::new();
        for (name, value) in fields {
            request.extend([name, ":", value, "\n"]);
            signed.extend([if signed.is_empty() { "" } else { ";" }, name]);
        }
        request.extend(["\n", &signed, "\n", EMPTY_SHA256]);

        let date = stamp.split('T').next().unwrap_or_default();
        let scope = self.scope(date);
        let to_sign = format!("AWS4-HMAC-SHA256\n{stamp}\n{scope}\n{}", hex::of(&Sha256::digest(request)));
        let signature = self.sign(to_sign.as_bytes(), date, time);
        let id = self.credentials.access_key_id();
        format!("AWS4-HMAC-SHA256 Credential={id}/{scope}, SignedHeaders={signed}, Signature={signature}")
    }

    /// Signs `text` with the key of `date`, which is that of `time`.
    fn sign(&self, text: &[u8], date: &str, time: SystemTime) -> String {
        if let Some(known) = self.key.load().as_deref().filter(|known| known.date == date) {
            return calculate_signature(&known.key, text);
        }
        let key: Box<[u8]> =
            generate_signing_key(self.credentials.secret_access_key(), time, &self.region, "s3").as_ref().into();
        let signature = calculate_signature(&key, text);
        self.key.store(Some(DayKey { date: date.to_owned(), key }.into()));
        signature
    }
}

const DATE: &str = "x-amz-date";
const CONTENT_SHA256: &str = "x-amz-content-sha256";
const TOKEN: &str = "x-amz-security-token";
/// The SHA-256 of no bytes.
const EMPTY_SHA256: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

#[cfg(test)]
mod tests {
    use super::*;
    use aws_sigv4::http_request::{
        PayloadChecksumKind, PercentEncodingMode, SignableBody, SignableRequest, SigningSettings,
        UriPathNormalizationMode, sign,
    };
    use aws_sigv4::sign::v4;
    use proptest::prelude::*;
    use std::time::Duration;

    /// 2013-05-24T00:00:00Z, the moment of the AWS examples.
    fn then() -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(1_369_353_600)
    }

    fn example(token: Option<&str>) -> Credentials {
        Credentials::new(
            "AKIAIOSFODNN7EXAMPLE",
            "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY",
            token.map(str::to_owned),
            None,
            "test",
        )
    }

    fn authorization(path: &str, query: &str, range: Option<&str>) -> String {
        let host = "examplebucket.s3.amazonaws.com";
        let signer = Signer::new(&example(None), "us-east-1", host);
        let stamp = "20130524T000000Z";
        let fields = [("host", host)].into_iter().chain(range.map(|range| ("range", range)));
        let fields = fields.chain([(CONTENT_SHA256, EMPTY_SHA256), (DATE, stamp)]);
        signer.authorization(&Method::GET, path, query, fields, stamp, then())
    }

    /// The example of AWS's own page on S3 signatures, "Example: GET Object".
    #[test]
    fn the_official_get_object_example() {
        assert_eq!(
            authorization("/test.txt", "", Some("bytes=0-9")),
            "AWS4-HMAC-SHA256 Credential=AKIAIOSFODNN7EXAMPLE/20130524/us-east-1/s3/aws4_request, \
             SignedHeaders=host;range;x-amz-content-sha256;x-amz-date, \
             Signature=f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41"
        );
    }

    /// "GET Bucket Lifecycle" and "Get Bucket (List Objects)" of the same page: we never send a query, but
    /// the signer must be right about one.
    #[test]
    fn the_official_query_examples() {
        let lifecycle = authorization("/", "lifecycle=", None);
        assert!(lifecycle.ends_with("fea454ca298b7da1c68078a5d1bdbfbbe0d65c699e0f91ac7a200a0136783543"), "{lifecycle}");
        let list = authorization("/", "max-keys=2&prefix=J", None);
        assert!(list.ends_with("34b48302e7b5fa45bde8084f4b7868a86f0a534bc59db6670ed5711ef69dc6f7"), "{list}");
    }

    #[test]
    fn a_session_token_is_sent_and_nothing_secret_is_printed() {
        let signer = Signer::new(&example(Some("TOKEN")), "us-east-1", "h");
        let headers = signer.headers(&Method::HEAD, "/a%20b", then()).unwrap();
        assert!(headers.iter().any(|(name, value)| name == TOKEN && value == "TOKEN"));
        let printed = format!("{headers:?} {:?}", example(Some("TOKEN")));
        assert!(
            !printed.contains("wJalr") && !printed.contains("TOKEN") && !printed.contains("Signature="),
            "{printed}"
        );
    }

    /// What the signer of `aws-sigv4` adds, with the settings that S3 needs and other services do not.
    fn by_the_crate(
        method: &Method,
        credentials: &Credentials,
        region: &str,
        host: &str,
        path: &str,
        time: SystemTime,
    ) -> Vec<(String, String)> {
        let mut settings = SigningSettings::default();
        settings.percent_encoding_mode = PercentEncodingMode::Single;
        settings.uri_path_normalization_mode = UriPathNormalizationMode::Disabled;
        settings.payload_checksum_kind = PayloadChecksumKind::XAmzSha256;
        let identity = credentials.clone().into();
        let params = v4::SigningParams::builder().identity(&identity).region(region).name("s3").time(time);
        let params = params.settings(settings).build().unwrap().into();
        let uri = format!("https://{host}{path}");
        let fields = [("host", host)].into_iter();
        let request = SignableRequest::new(method.as_str(), uri, fields, SignableBody::Bytes(&[])).unwrap();
        let (instructions, _) = sign(request, &params).unwrap().into_parts();
        instructions.headers().map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
    }

    proptest! {
        /// Days come in any order, so that a key of another day is at hand.
        #[test]
        fn every_byte_is_what_the_crate_makes_it(
            keys in proptest::collection::vec("[ -~猫é]{1,40}", 1..4),
            region in "[a-z0-9-]{1,20}",
            host in "[A-Za-z0-9.-]{1,30}(:[1-9][0-9]{0,3})?",
            secret in "[ -~]{0,80}",
            token in proptest::option::of("[A-Za-z0-9+/=]{1,200}"),
            seconds in proptest::collection::vec(0u64..10_000_000_000, 1..4),
        ) {
            let credentials = Credentials::new("AKIAEXAMPLE", secret, token, None, "test");
            let signer = Signer::new(&credentials, &region, &host);
            for seconds in seconds.iter().flat_map(|at| [*at, at + 1, at + 86_400]) {
                let time = SystemTime::UNIX_EPOCH + Duration::from_secs(seconds) + Duration::from_millis(999);
                for (key, method) in keys.iter().zip([Method::GET, Method::HEAD].into_iter().cycle()) {
                    let path = format!("/{}", crate::s3::key::encode(key));
                    let ours = signer.headers(&method, &path, time).unwrap();
                    let ours: Vec<_> = ours
                        .iter()
                        .map(|(name, value)| (name.as_str().to_owned(), value.to_str().unwrap().to_owned()))
                        .collect();
                    prop_assert_eq!(ours, by_the_crate(&method, &credentials, &region, &host, &path, time));
                }
            }
        }
    }
}
