//! New lists, made while the old ones are in force. To sort a million entries and to fill the kernel's maps with them
//! takes a second, in which nobody should have to wait for the program's other tables.

use std::sync::Arc;
use std::time::SystemTime;

use super::XdpError;
use super::lists::{Lists, RuleNumbers, unix_s};
use super::tables::Change;
use crate::config::model::AccessRule;

/// Access rules, and what is in force before them.
pub struct ListsPlan {
    pub(super) access: Vec<AccessRule>,
    pub(super) old: Arc<Lists>,
    pub(super) rules: RuleNumbers,
}

/// Lists that are not in force yet.
pub struct NewLists {
    pub(super) plan: ListsPlan,
    pub(super) lists: Lists,
    /// The numbers of the rules, those of the old lists included.
    pub(super) rules: RuleNumbers,
    /// The numbers that begin to count.
    pub(super) begun: Vec<u32>,
    pub(super) change: Change,
}

impl ListsPlan {
    /// Compiles the rules, for this moment, and fills new maps where much is different. Blocks; nothing is in force yet.
    pub fn make(self) -> Result<NewLists, XdpError> {
        let names: Vec<&str> = self.access.iter().map(|rule| rule.name.as_str()).collect();
        let (rules, begun) = self.rules.assign(&names)?;
        let now = unix_s(SystemTime::now());
        let lists = match Lists::compile(&self.access, &rules, &self.old.conditions, now) {
            // Those of rules that are gone may have taken the places.
            Err(XdpError::TooManyConditions) => Lists::compile(&self.access, &rules, &[], now)?,
            compiled => compiled?,
        };
        let change = Change::between(&self.old, &lists)?;
        Ok(NewLists { plan: self, lists, rules, begun, change })
    }
}
