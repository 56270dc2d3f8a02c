//! An S3 store over a folder, that verifies signatures: `s3s` speaks the protocol, `s3s-fs` keeps the files.

use std::net::SocketAddr;
use std::path::Path;
use std::time::SystemTime;

use anyhow::Context;
use aws_credential_types::Credentials;
use http::{HeaderMap, Method};
use s3s::auth::SimpleAuth;
use s3s::dto::PutObjectInput;
use s3s::service::S3ServiceBuilder;
use s3s::{Body, S3, S3Request};
use s3s_fs::FileSystem;

use super::client::{self, Reply};
use super::picture::Picture;
use super::port;
use crate::s3::sign::Signer;

pub const BUCKET: &str = "pictures";
pub const REGION: &str = "us-east-1";
pub const ACCESS_KEY: &str = "hopfall-demo";

#[derive(Debug)]
pub struct Store {
    pub address: SocketAddr,
    /// Made up at each start.
    pub secret_key: String,
}

impl Store {
    /// Puts `pictures` into a new bucket in `folder`, and serves it on a free loopback port.
    pub async fn start(folder: &Path, pictures: impl Iterator<Item = &Picture>) -> anyhow::Result<Store> {
        std::fs::create_dir_all(folder.join(BUCKET))?;
        let files = FileSystem::new(folder).map_err(|error| anyhow::anyhow!("the bucket's folder: {error:?}"))?;
        for picture in pictures {
            upload(&files, picture).await.with_context(|| format!("uploading {}", picture.path))?;
        }
        let secret_key = format!("{:032x}", rand::random::<u128>());
        let mut service = S3ServiceBuilder::new(files);
        service.set_auth(SimpleAuth::from_single(ACCESS_KEY, secret_key.as_str()));
        let address = port::open(service.build()).await?;
        Ok(Store { address, secret_key })
    }

    /// What the store itself answers to somebody who does not sign.
    pub async fn ask_unsigned(&self, picture: &Picture) -> anyhow::Result<Reply> {
        client::ask(self.address, &Method::GET, &format!("/{BUCKET}{}", picture.path), &HeaderMap::new()).await
    }

    /// What the store itself answers to somebody who signs with `secret`.
    pub async fn ask_signed(&self, picture: &Picture, secret: &str) -> anyhow::Result<Reply> {
        let (host, path) = (self.address.to_string(), format!("/{BUCKET}{}", picture.path));
        let credentials = Credentials::new(ACCESS_KEY, secret, None, None, "demo");
        let signed = Signer::new(&credentials, REGION, &host).headers(&Method::GET, &path, SystemTime::now())?;
        client::ask(self.address, &Method::GET, &path, &signed.into_iter().collect()).await
    }
}

/// Stores one picture, with its content type, as a PUT would.
async fn upload(files: &FileSystem, picture: &Picture) -> anyhow::Result<()> {
    let input = PutObjectInput {
        bucket: BUCKET.into(),
        key: picture.path.trim_start_matches('/').into(),
        body: Some(Body::from(picture.svg()).into()),
        content_type: Some("image/svg+xml".into()),
        ..PutObjectInput::default()
    };
    let request = S3Request {
        input,
        method: Method::PUT,
        uri: http::Uri::default(),
        headers: HeaderMap::new(),
        extensions: http::Extensions::new(),
        credentials: None,
        region: None,
        service: None,
        trailing_headers: None,
    };
    files.put_object(request).await?;
    Ok(())
}
