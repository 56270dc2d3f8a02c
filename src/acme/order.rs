//! One order, from the request to the PEM text (RFC 8555 §7.4), validated by tls-alpn-01 (RFC 8737).

use std::sync::Arc;
use std::time::Duration;

use instant_acme::{
    Account, AuthorizationStatus, CertificateIdentifier, ChallengeType, Error, Identifier, NewOrder, Order,
    OrderStatus, Problem, RetryPolicy,
};
use rcgen::{CertificateParams, CustomExtension, KeyPair, PKCS_ECDSA_P256_SHA256};
use rustls::crypto::ring::sign::any_supported_type;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::sign::CertifiedKey;

use super::client::Trouble;
use super::failure::kind;
use crate::tls::Issued;

/// Orders a certificate for one name with a new key, and gives both as PEM. `replaces` is the one that it is to replace,
/// if the CA knows that by itself (RFC 9773 §5).
///
/// # Errors
/// What the library says, or what the CA says of the validation that failed.
pub async fn order(
    account: &Account,
    name: &str,
    replaces: Option<CertificateIdentifier<'static>>,
    issued: &Arc<Issued>,
) -> Result<String, Error> {
    let mut order = begin(account, name, replaces).await?;
    // Answered until the order is ready, whichever way this ends.
    let mut answering = Vec::new();
    let mut authorizations = order.authorizations();
    while let Some(authorization) = authorizations.next().await {
        let mut authorization = authorization?;
        match authorization.status {
            // From an order before.
            AuthorizationStatus::Valid => continue,
            AuthorizationStatus::Pending => {}
            status => return Err(other(format!("the CA's authorization is {status:?} from the beginning"))),
        }
        let challenge = authorization.challenge(ChallengeType::TlsAlpn01);
        let mut challenge = challenge.ok_or_else(|| other("the CA offers no tls-alpn-01".to_owned()))?;
        let answer = answer(name, challenge.key_authorization().digest().as_ref())?;
        answering.push(issued.answering(name, &Arc::new(answer)));
        challenge.set_ready().await?;
    }
    match order.poll_ready(&PATIENCE).await {
        Ok(OrderStatus::Ready) => {}
        Ok(status) => {
            let problem = failed_validation(&mut order).await?;
            return Err(problem.map_or_else(|| other(format!("the CA's order is {status:?}")), Error::Api));
        }
        Err(error @ Error::Api(_)) => return Err(failed_validation(&mut order).await?.map_or(error, Error::Api)),
        Err(error) => return Err(error),
    }
    drop(answering);
    let key = order.finalize().await?;
    Ok(key + &order.poll_certificate(&PATIENCE).await?)
}

/// With `replaces` first, and without it when that is what the CA minds: it may have forgotten the old certificate, or know
/// it as replaced already.
async fn begin(
    account: &Account,
    name: &str,
    replaces: Option<CertificateIdentifier<'static>>,
) -> Result<Order, Error> {
    let names = [Identifier::Dns(name.to_owned())];
    if let Some(replaces) = replaces {
        match account.new_order(&NewOrder::new(&names).replaces(replaces)).await {
            Err(Error::Api(problem)) if ["rateLimited", "accountDoesNotExist"].contains(&kind(&problem)) => {
                return Err(Error::Api(problem));
            }
            Err(Error::Other(other)) if other.is::<Trouble>() => return Err(Error::Other(other)),
            Err(error) => log::debug!("{name}: the CA does not take it as a replacement: {error}"),
            order => return order,
        }
    }
    account.new_order(&NewOrder::new(&names)).await
}

/// What the CA says went wrong when it validated the name.
async fn failed_validation(order: &mut Order) -> Result<Option<Problem>, Error> {
    let mut authorizations = order.authorizations();
    while let Some(authorization) = authorizations.next().await {
        let mut authorization = authorization?;
        let state = authorization.refresh().await?;
        if let Some(problem) = state.challenges.iter().find_map(|challenge| challenge.error.clone()) {
            return Ok(Some(problem));
        }
    }
    Ok(None)
}

/// The certificate that proves control of the name: self-signed, with the digest in `acmeIdentifier` (RFC 8737 §3).
fn answer(name: &str, digest: &[u8]) -> Result<CertifiedKey, Error> {
    let boxed = |error: rcgen::Error| Error::Other(Box::new(error));
    let mut parameters = CertificateParams::new([name.to_owned()]).map_err(boxed)?;
    parameters.custom_extensions = vec![CustomExtension::new_acme_identifier(digest)];
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(boxed)?;
    let certificate = parameters.self_signed(&key).map_err(boxed)?;
    let private = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let signing = any_supported_type(&private).map_err(|error| Error::Other(Box::new(error)))?;
    Ok(CertifiedKey::new(vec![certificate.der().clone()], signing))
}

fn other(what: String) -> Error {
    Error::Other(what.into())
}

/// For a validation, and for the issuance after it. The CA's `Retry-After` is followed within it.
const PATIENCE: RetryPolicy =
    RetryPolicy::new().initial_delay(Duration::from_millis(250)).backoff(2.0).timeout(Duration::from_secs(120));
