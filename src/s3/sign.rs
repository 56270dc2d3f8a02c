//! SigV4 for S3, by `aws-sigv4`, with the settings that S3 needs and other services do not.
//!
//! <https://docs.aws.amazon.com/AmazonS3/latest/API/sig-v4-header-based-auth.html>: the path is encoded
//! once and not normalised, and the payload's hash is itself a header. Only `host` and `x-amz-*` are
//! signed; `Range` and the conditionals may be added without breaking the signature.

use std::time::SystemTime;

use aws_credential_types::Credentials;
use aws_sigv4::http_request::{
    PayloadChecksumKind, PercentEncodingMode, SignableBody, SignableRequest, SigningSettings, UriPathNormalizationMode,
    sign,
};
use aws_sigv4::sign::v4;
use http::{HeaderName, HeaderValue, Method};

/// Where a request goes, as the signature sees it.
#[derive(Clone, Copy, Debug)]
pub struct Place<'a> {
    pub region: &'a str,
    /// The `Host` that will be sent.
    pub host: &'a str,
    /// The path that will be sent, encoded by [`crate::s3::key::encode`].
    pub path: &'a str,
}

/// The header fields to add to a GET or HEAD with no body so that S3 takes it as ours.
///
/// `time` is signed, and S3 refuses one that is 15 minutes off. `extra` fields are signed with the rest.
///
/// # Errors
/// When the parts do not make a URI, which an encoded path and a checked endpoint always do.
pub fn headers(
    method: &Method,
    place: Place<'_>,
    extra: &[(&str, &str)],
    credentials: &Credentials,
    time: SystemTime,
) -> anyhow::Result<Vec<(HeaderName, HeaderValue)>> {
    let mut settings = SigningSettings::default();
    settings.percent_encoding_mode = PercentEncodingMode::Single;
    settings.uri_path_normalization_mode = UriPathNormalizationMode::Disabled;
    settings.payload_checksum_kind = PayloadChecksumKind::XAmzSha256;
    let identity = credentials.clone().into();
    let params = v4::SigningParams::builder()
        .identity(&identity)
        .region(place.region)
        .name("s3")
        .time(time)
        .settings(settings)
        .build()?
        .into();

    let uri = format!("https://{}{}", place.host, place.path);
    let signed = std::iter::once(("host", place.host)).chain(extra.iter().copied());
    let request = SignableRequest::new(method.as_str(), uri, signed, SignableBody::Bytes(&[]))?;
    let (instructions, _signature) = sign(request, &params)?.into_parts();

    let mut headers = Vec::with_capacity(4);
    for (name, value) in instructions.headers() {
        let mut value = HeaderValue::from_str(value)?;
        value.set_sensitive(
            name.eq_ignore_ascii_case("authorization") || name.eq_ignore_ascii_case("x-amz-security-token"),
        );
        headers.push((HeaderName::from_bytes(name.as_bytes())?, value));
    }
    Ok(headers)
}

#[cfg(test)]
mod tests {
    use super::*;
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

    fn signature(method: &Method, path: &str, extra: &[(&str, &str)]) -> (String, String) {
        let place = Place { region: "us-east-1", host: "examplebucket.s3.amazonaws.com", path };
        let headers = headers(method, place, extra, &example(None), then()).unwrap();
        let get =
            |name: &str| headers.iter().find(|(n, _)| n == name).map(|(_, v)| v.to_str().unwrap().to_owned()).unwrap();
        (get("authorization"), get("x-amz-content-sha256"))
    }

    /// The example of AWS's own page on S3 signatures, "Example: GET Object".
    #[test]
    fn the_official_get_object_example() {
        let (authorization, payload) = signature(&Method::GET, "/test.txt", &[("range", "bytes=0-9")]);
        assert_eq!(
            authorization,
            "AWS4-HMAC-SHA256 Credential=AKIAIOSFODNN7EXAMPLE/20130524/us-east-1/s3/aws4_request, \
             SignedHeaders=host;range;x-amz-content-sha256;x-amz-date, \
             Signature=f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41"
        );
        assert_eq!(payload, "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
    }

    /// "GET Bucket Lifecycle" and "Get Bucket (List Objects)" of the same page: we never send a query, but
    /// the signer must be right about one.
    #[test]
    fn the_official_query_examples() {
        let (authorization, _) = signature(&Method::GET, "/?lifecycle", &[]);
        assert!(
            authorization.ends_with("fea454ca298b7da1c68078a5d1bdbfbbe0d65c699e0f91ac7a200a0136783543"),
            "{authorization}"
        );
        let (authorization, _) = signature(&Method::GET, "/?max-keys=2&prefix=J", &[]);
        assert!(
            authorization.ends_with("34b48302e7b5fa45bde8084f4b7868a86f0a534bc59db6670ed5711ef69dc6f7"),
            "{authorization}"
        );
    }

    #[test]
    fn a_session_token_is_sent_and_nothing_secret_is_printed() {
        let place = Place { region: "us-east-1", host: "h", path: "/a%20b" };
        let headers = headers(&Method::HEAD, place, &[], &example(Some("TOKEN")), then()).unwrap();
        assert!(headers.iter().any(|(name, value)| name == "x-amz-security-token" && value == "TOKEN"));
        let printed = format!("{headers:?} {:?}", example(Some("TOKEN")));
        assert!(
            !printed.contains("wJalr") && !printed.contains("TOKEN") && !printed.contains("Signature="),
            "{printed}"
        );
    }
}
