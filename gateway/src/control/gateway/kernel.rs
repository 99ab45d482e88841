//! The kernel's side of a generation, and the health that it depends on.

use std::panic::resume_unwind;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::{JoinSet, spawn_blocking};

use super::{Gateway, ReloadError};
use crate::config::model::VipMode;
use crate::control::shared::ban;
use crate::control::{drop_log, services};
use crate::snapshot::Snapshot;
use crate::xdp::{self, ProbeWay};

/// How long a start or reload waits for the first answers of new health checks. Endpoints without one by then are taken
/// to be healthy.
const SETTLE: Duration = Duration::from_secs(1);

impl Gateway {
    /// Puts the kernel's side of a generation into force, or after an error that of the current one again.
    pub(super) async fn sync_kernel(&mut self, snapshot: &Snapshot) -> Result<(), ReloadError> {
        let synced = self.try_kernel(snapshot).await;
        if synced.is_err()
            && let Some(current) = self.current.clone()
        {
            self.in_doubt = true;
            // Its checks have their answers.
            self.follow(&current);
            let restored = self.sync_xdp(&current).await.and_then(|()| self.sync_services(&current));
            match restored {
                Ok(()) => self.in_doubt = false,
                Err(error) => log::error!("a part of the refused configuration is in force, until a reload: {error}"),
            }
        }
        synced
    }

    async fn try_kernel(&mut self, snapshot: &Snapshot) -> Result<(), ReloadError> {
        // Before the checks, some of which go through its programs.
        self.sync_xdp(snapshot).await?;
        self.follow(snapshot);
        self.checks.settle(SETTLE).await;
        self.sync_services(snapshot)?;
        self.in_doubt = false;
        Ok(())
    }

    async fn sync_xdp(&mut self, snapshot: &Snapshot) -> Result<(), ReloadError> {
        let config = &snapshot.config;
        let unchanged =
            |current: &Arc<Snapshot>| current.config.xdp == config.xdp && current.config.access == config.access;
        if !self.in_doubt && self.current.as_ref().is_some_and(unchanged) {
            return Ok(());
        }
        let plan = self.shared.lock().xdp.as_ref().and_then(|xdp| xdp.plan_lists(&config.xdp, &config.access));
        let new = match plan {
            // On another thread: the admin endpoint is served by this one.
            Some(plan) => match spawn_blocking(|| plan.make()).await {
                Ok(made) => Some(made.map_err(ReloadError::Xdp)?),
                Err(panicked) => resume_unwind(panicked.into_panic()),
            },
            None => None,
        };
        let mut state = self.shared.lock();
        let xdp = match (&mut state.xdp, new) {
            (Some(xdp), Some(new)) => {
                xdp.sync_made(&config.xdp, new).map_err(ReloadError::Xdp)?;
                xdp
            }
            (Some(xdp), None) if xdp.is_on() => {
                xdp.sync(&config.xdp, &config.access).map_err(ReloadError::Xdp)?;
                xdp
            }
            (off, _) => {
                // Nobody has been asked yet: all are taken to be healthy until the checks have settled.
                let services = services::services(config, &self.checks.now(snapshot));
                let attached = xdp::attach_serving(&config.xdp, &config.access, &services);
                off.insert(attached.map_err(ReloadError::Xdp)?)
            }
        };
        // There are only those of a program that was just loaded.
        if let Some(drops) = xdp.take_drops() {
            self.reader = JoinSet::new();
            self.reader.spawn(drop_log::write(drops, self.shared.clone()));
            self.shared.bans.repeat_all();
            ban(xdp, &self.shared.bans);
        }
        if let Some(log) = xdp.take_log() {
            self.reader.spawn(async { drop(log.run().await) });
        }
        Ok(())
    }

    /// Checks the endpoints of this generation, each as its clients reach it.
    fn follow(&mut self, snapshot: &Snapshot) {
        let asked = services::asked_at(&snapshot.config);
        let mut wanted: Vec<_> = asked.iter().flatten().copied().collect();
        wanted.sort_by_key(|&(vip, mode)| (vip, mode == VipMode::Ipip));
        wanted.dedup();
        let ways = self.shared.lock().xdp.as_mut().map_or_else(Vec::new, |xdp| xdp.probe_ways(&wanted));
        let way = |vip| Some(ways.get(wanted.iter().position(|other| other == vip)?)?.clone());
        let ways: Vec<Vec<ProbeWay>> = asked.iter().map(|vips| vips.iter().filter_map(way).collect()).collect();
        self.checks.follow(snapshot, &ways);
        self.outliers.follow(snapshot);
        self.exchanges.follow(snapshot);
    }

    pub(super) fn sync_services(&self, snapshot: &Snapshot) -> Result<(), ReloadError> {
        let services = services::services(&snapshot.config, &self.checks.now(snapshot));
        match &mut self.shared.lock().xdp {
            Some(xdp) => xdp.sync_services(&services).map_err(ReloadError::Xdp),
            None => Ok(()),
        }
    }
}
