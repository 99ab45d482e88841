//! The subsets of endpoints that routes ask for, each known by a number.

use crate::config::model::{Action, ClusterId, Config, Subset, WeightedCluster};

/// One of the subsets of a generation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SubsetId(u32);

impl SubsetId {
    /// The id as an index.
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// The subsets of a configuration, and who asks for them.
#[derive(Default)]
pub(super) struct Subsets {
    /// By [`SubsetId`], with the clusters it is asked of.
    pub distinct: Vec<(Subset, Vec<ClusterId>)>,
    /// By route.
    pub of_routes: Vec<Option<SubsetId>>,
    /// By L4 route.
    pub of_l4_routes: Vec<Option<SubsetId>>,
}

impl Subsets {
    pub fn of(config: &Config) -> Subsets {
        let mut subsets = Subsets::default();
        for route in &config.routes {
            let id = match &route.action {
                Action::Forward(forward) => subsets.ask(forward.subset.as_ref(), &forward.clusters),
                Action::Redirect(_) | Action::Respond(_) | Action::RateLimitService(_) => None,
            };
            subsets.of_routes.push(id);
        }
        for route in &config.l4_routes {
            let id = subsets.ask(route.subset.as_ref(), &route.clusters);
            subsets.of_l4_routes.push(id);
        }
        subsets
    }

    fn ask(&mut self, subset: Option<&Subset>, clusters: &[WeightedCluster]) -> Option<SubsetId> {
        let subset = subset?;
        let known = self.distinct.iter().position(|(other, _)| other == subset);
        let at = known.unwrap_or_else(|| {
            self.distinct.push((subset.clone(), Vec::new()));
            self.distinct.len() - 1
        });
        self.distinct[at].1.extend(clusters.iter().map(|share| share.cluster));
        Some(SubsetId(at as u32))
    }
}

#[cfg(test)]
pub(super) fn ids(count: u32) -> Vec<SubsetId> {
    (0..count).map(SubsetId).collect()
}
