//! Renewals of certificates over the admin endpoint.

use axum::body::Bytes;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde_json::Value;

use super::AdminState;
use crate::control::renew::{NotRenewed, Which};

pub async fn renew(State(state): State<AdminState>, body: Bytes) -> Response {
    let Some(which) = which(&body) else {
        let text = "the body has to be {\"name\": \"…\"} or {\"all\": true}\n";
        return (StatusCode::BAD_REQUEST, text).into_response();
    };
    let (status, why) = match (state.renew)(&which) {
        Ok(done) => return super::json(StatusCode::OK, done),
        Err(NotRenewed::Unknown(why)) => (StatusCode::NOT_FOUND, why),
        Err(NotRenewed::Refused(why)) => (StatusCode::CONFLICT, why),
    };
    (status, why + "\n").into_response()
}

fn which(body: &[u8]) -> Option<Which> {
    let body: Value = serde_json::from_slice(body).ok()?;
    match (body.get("name"), body.get("all")) {
        (Some(Value::String(name)), None) => Some(Which::One(name.clone())),
        (None, Some(Value::Bool(true))) => Some(Which::All),
        _ => None,
    }
}
