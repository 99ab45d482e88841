//! Access lists and bans over the admin endpoint.

use std::net::IpAddr;
use std::time::{Duration, SystemTime};

use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use ipnet::IpNet;
use serde_json::{Value, json};

use super::AdminState;
use crate::filter::bans::{Ban, BanSource, Bans};

/// What the endpoint asks about sources.
pub trait Sources: Send + Sync {
    /// The bans of the process.
    fn bans(&self) -> &Bans;
    /// Has XDP follow a change of them.
    fn apply_bans(&self);
    /// Packets that a ban dropped in XDP.
    fn banned_packets(&self, network: IpNet) -> u64;
    /// The access lists in the kernel, or the entry that decides about an address, as JSON.
    fn lists(&self, address: Option<IpAddr>) -> String;
}

/// How long a ban without `ttl` lasts.
const DEFAULT_TTL: Duration = Duration::from_secs(3_600);

pub async fn lists(State(state): State<AdminState>) -> Response {
    super::json(StatusCode::OK, state.sources.lists(None))
}

pub async fn list_entry(State(state): State<AdminState>, Path(address): Path<String>) -> Response {
    match parse(&address) {
        Ok(address) => super::json(StatusCode::OK, state.sources.lists(Some(address))),
        Err(refused) => *refused,
    }
}

pub async fn bans(State(state): State<AdminState>) -> Response {
    let bans: Vec<Value> = state.sources.bans().list().iter().map(|ban| view(ban, &state)).collect();
    super::json(StatusCode::OK, format!("{:#}\n", json!(bans)))
}

pub async fn why(State(state): State<AdminState>, Path(address): Path<String>) -> Response {
    let address = match parse(&address) {
        Ok(address) => address,
        Err(refused) => return *refused,
    };
    match state.sources.bans().find(address, SystemTime::now()) {
        Some(ban) => super::json(StatusCode::OK, format!("{:#}\n", view(&ban, &state))),
        None => not_banned(address),
    }
}

pub async fn ban(State(state): State<AdminState>, Path(address): Path<String>, body: Bytes) -> Response {
    let asked = parse(&address).and_then(|address| Ok((address, ttl_and_reason(&body)?)));
    let (address, (ttl, reason)) = match asked {
        Ok(asked) => asked,
        Err(refused) => return *refused,
    };
    let source = BanSource::named_by_operator(address);
    match state.sources.bans().add(source, ttl, &reason, "named by an operator", SystemTime::now()) {
        Ok(network) => {
            state.sources.apply_bans();
            log::info!("banned {network} for {}: {reason}", humantime::format_duration(ttl));
            super::json(StatusCode::OK, format!("{}\n", json!({ "banned": network })))
        }
        Err(error) => (StatusCode::CONFLICT, format!("{address} is not banned: {error}\n")).into_response(),
    }
}

pub async fn undo(State(state): State<AdminState>, Path(address): Path<String>) -> Response {
    let address = match parse(&address) {
        Ok(address) => address,
        Err(refused) => return *refused,
    };
    let Some(ban) = state.sources.bans().undo(address) else { return not_banned(address) };
    state.sources.apply_bans();
    log::info!("ended the ban of {}: {}", ban.network, ban.reason);
    super::json(StatusCode::OK, format!("{}\n", json!({ "undone": ban.network })))
}

fn parse(address: &str) -> Result<IpAddr, Box<Response>> {
    address.parse().map_err(|_| bad(&format!("{address:?} is not an IP address")))
}

fn ttl_and_reason(body: &[u8]) -> Result<(Duration, String), Box<Response>> {
    let body: Value = match body {
        [] => Value::Null,
        body => serde_json::from_slice(body).map_err(|error| bad(&format!("the body is not JSON: {error}")))?,
    };
    let ttl = match body.get("ttl").and_then(Value::as_str) {
        Some(ttl) => {
            humantime::parse_duration(ttl).map_err(|_| bad(&format!("{ttl:?} is not a duration such as \"10m\"")))?
        }
        None => DEFAULT_TTL,
    };
    Ok((ttl, body.get("reason").and_then(Value::as_str).unwrap_or("by hand").to_owned()))
}

fn bad(what: &str) -> Box<Response> {
    Box::new((StatusCode::BAD_REQUEST, format!("{what}\n")).into_response())
}

fn not_banned(address: IpAddr) -> Response {
    (StatusCode::NOT_FOUND, format!("{address} is not banned\n")).into_response()
}

fn view(ban: &Ban, state: &AdminState) -> Value {
    json!({
        "source": ban.network,
        "since": humantime::format_rfc3339_seconds(ban.since).to_string(),
        "until": humantime::format_rfc3339_seconds(ban.until).to_string(),
        "reason": ban.reason,
        "evidence": ban.evidence,
        "xdp_packets": state.sources.banned_packets(ban.network),
    })
}
