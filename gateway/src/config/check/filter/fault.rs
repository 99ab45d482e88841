//! `fault`

use super::{Taken, when};
use crate::config::check::only_one;
use crate::config::model::{AbortStatus, Fault, FaultAbort, FaultDelay};
use crate::config::raw;
use crate::config::report::Diagnostics;
use crate::config::span::{At, Span};

/// Checks a `fault`. `place` is its name where the file gives it none.
pub fn check(
    raw: raw::Fault,
    span: Span,
    place: String,
    taken: &mut Taken,
    diagnostics: &mut Diagnostics,
) -> Option<Fault> {
    let (name, name_span) = raw.name.map_or((place, span), |name| (name.value.0, name.span));
    taken.take(&name, name_span, diagnostics);
    if raw.delay.is_none() && raw.abort.is_none() {
        diagnostics.error(span, "this fault does nothing").help("add `delay`, `abort` or both");
    }
    let headers = raw.headers.is_some_and(|on| on.value);
    let delay = raw.delay.map(|raw| delay(raw, headers, diagnostics));
    let abort = raw.abort.map(|raw| abort(raw, headers, diagnostics));
    let when = when(raw.r#match, diagnostics);
    Some(Fault {
        name,
        when: when?,
        delay: match delay {
            Some(delay) => Some(delay?),
            None => None,
        },
        abort: match abort {
            Some(abort) => Some(abort?),
            None => None,
        },
        headers,
        max_active: raw.max_active.map_or(1_024, |count| count.value.0),
    })
}

fn delay(
    At { value: raw, span }: At<raw::FaultDelay>,
    headers: bool,
    diagnostics: &mut Diagnostics,
) -> Option<FaultDelay> {
    if raw.r#for.is_none() && !headers {
        let help = "say how long, or let requests say it with `headers = true`";
        diagnostics.error(span, "`for` is missing in `delay`").help(help);
    }
    let time = match raw.r#for {
        Some(time) => Some(time.value.0?.0),
        None => None,
    };
    Some(FaultDelay { share: raw.percent.0?.value.0, time })
}

fn abort(
    At { value: raw, span }: At<raw::FaultAbort>,
    headers: bool,
    diagnostics: &mut Diagnostics,
) -> Option<FaultAbort> {
    let spans = [raw.status.as_ref().map(|key| key.span), raw.grpc_status.as_ref().map(|key| key.span)];
    only_one(spans, "`status` and `grpc_status`", diagnostics);
    if spans == [None, None] && !headers {
        let help = "say which, or let requests say it with `headers = true`";
        diagnostics.error(span, "`status` or `grpc_status` is missing in `abort`").help(help);
    }
    let with = match (raw.status, raw.grpc_status) {
        (Some(status), _) => Some(AbortStatus::Http(status.value.0?.0)),
        (None, Some(status)) => Some(AbortStatus::Grpc(status.value.0?.0)),
        (None, None) => None,
    };
    Some(FaultAbort { share: raw.percent.0?.value.0, with })
}
