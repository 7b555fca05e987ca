//! A real HTTP client. Who drops the future of a request hangs up: HTTP/1 has no other way to
//! cancel one.

use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use hyper::header::CONTENT_TYPE;
use hyper::{Request, StatusCode};
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde_json::{Value, json};
use tokio::time::timeout;

use crate::process::LONG;

#[derive(Clone)]
pub struct Client {
    http: hyper_util::client::legacy::Client<HttpConnector, Full<Bytes>>,
    users: String,
    orders: String,
    metrics: String,
}

pub type Error = Box<dyn std::error::Error + Send + Sync>;

impl Client {
    pub fn new(address: String) -> Self {
        let http = hyper_util::client::legacy::Client::builder(TokioExecutor::new()).build_http();
        let of = |path| format!("{address}/{path}");
        Self { http, users: of("users"), orders: of("orders"), metrics: of("metrics") }
    }

    /// Signs a user up; answers with the user's number, where there is one now.
    pub async fn sign_up(&self, email: &str) -> Result<(StatusCode, Option<i32>), Error> {
        self.post(&json!({ "email": email }), "").await
    }

    pub async fn sign_up_referred(&self, email: &str, by: &str) -> Result<(StatusCode, Option<i32>), Error> {
        self.post(&json!({ "email": email, "referred_by": by }), "").await
    }

    /// The same with a request that goes wrong in its block.
    pub async fn sign_up_badly(&self, email: &str, fault: &str) -> Result<(StatusCode, Option<i32>), Error> {
        self.post(&json!({ "email": email }), fault).await
    }

    async fn post(&self, body: &Value, fault: &str) -> Result<(StatusCode, Option<i32>), Error> {
        self.post_to(&self.users, body, fault).await
    }

    async fn post_to(&self, to: &str, body: &Value, fault: &str) -> Result<(StatusCode, Option<i32>), Error> {
        let request = Request::post(to)
            .header(CONTENT_TYPE, "application/json")
            .header("x-fault", fault)
            .body(Full::from(body.to_string()))?;
        let (status, body) = self.send(request).await?;
        if status != StatusCode::CREATED {
            return Ok((status, None));
        }
        let user: Value = serde_json::from_slice(&body)?;
        Ok((status, Some(user["id"].as_i64().ok_or("no number")?.try_into()?)))
    }

    /// Orders something; answers with the order's number, where there is one now.
    pub async fn order(&self, email: &str, cents: i64) -> Result<(StatusCode, Option<i32>), Error> {
        self.post_to(&self.orders, &json!({ "email": email, "cents": cents }), "").await
    }

    pub async fn count(&self) -> Result<Option<i64>, Error> {
        let (_, body) = self.send(Request::get(&self.users).body(Full::default())?).await?;
        Ok(serde_json::from_slice::<Value>(&body)?["users"].as_i64())
    }

    /// What Prometheus would be told.
    pub async fn metrics(&self) -> Result<String, Error> {
        let (_, body) = self.send(Request::get(&self.metrics).body(Full::default())?).await?;
        Ok(String::from_utf8(body.to_vec())?)
    }

    async fn send(&self, request: Request<Full<Bytes>>) -> Result<(StatusCode, Bytes), Error> {
        let answer = async {
            let response = self.http.request(request).await?;
            let status = response.status();
            Ok((status, response.into_body().collect().await?.to_bytes()))
        };
        // One that is never answered is not to keep a test from ending.
        timeout(LONG, answer).await?
    }
}
