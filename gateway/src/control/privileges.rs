//! What the process may do once its configuration is read: little.
//!
//! This comes before any thread, socket or BPF program is made. So what a reload has to do later, the start has done with
//! the same rights, and what works at the start works then too. The threads that come after have what this one has; those
//! that move bytes give the rest up ([`crate::worker::give_up_capabilities`]).

use std::ffi::CString;
use std::fmt::Display;

use caps::{CapSet, Capability, CapsHashSet};
use nix::sys::prctl;
use nix::unistd::{self, Gid, Group, Uid, User};

use crate::config::model;

/// What the control thread keeps, of what there is: reloads bind ports below 1024, change what the XDP program does, and
/// read keys that are root's alone.
const KEPT: [Capability; 5] = [
    Capability::CAP_NET_BIND_SERVICE,
    Capability::CAP_NET_ADMIN,
    Capability::CAP_BPF,
    Capability::CAP_PERFMON,
    Capability::CAP_DAC_READ_SEARCH,
];

/// Whether the process gives up what it does not need.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Privileges {
    /// Yes: there is no way back.
    GiveUp,
    /// No: whoever started it in this process has more to do with them.
    Keep,
}

/// Becomes who the configuration says, and gives up every capability but those that reloads need. The error says what
/// could not be had, and what to do.
pub fn give_up(settings: &model::Gateway) -> Result<(), String> {
    let had = caps::read(None, CapSet::Permitted).map_err(|error| failed("read capabilities", &error))?;
    let kept: CapsHashSet = had.intersection(&KEPT.into()).copied().collect();
    // Whoever may not make the bounding set smaller has to do without: no_new_privs stands in its way as well.
    if had.contains(&Capability::CAP_SETPCAP) {
        bound(&kept).map_err(|error| failed("bound capabilities", &error))?;
    }
    if let Some(user) = &settings.user {
        become_user(user, settings.group.as_deref())?;
    }
    limit_to(&kept).map_err(|error| failed("give up capabilities", &error))?;
    prctl::set_no_new_privs().map_err(|error| failed("set no_new_privs", &error))?;
    // After the change of user, which sets it to what fs.suid_dumpable says.
    prctl::set_dumpable(settings.core_dumps).map_err(|error| failed("forbid core dumps", &error))?;
    if Uid::effective().is_root() {
        log::info!("runs as root: `user` in [gateway] says who it should become");
    }
    Ok(())
}

/// Whether this machine has the user and the group; the error says which one it does not have.
pub fn find_user(user: &str, group: Option<&str>) -> Result<(), String> {
    identity(user, group).map(drop)
}

fn failed(what: &str, error: &dyn Display) -> String {
    format!("cannot {what}: {error}")
}

/// Makes everything but `kept` impossible to have ever again, whatever is executed.
fn bound(kept: &CapsHashSet) -> Result<(), caps::errors::CapsError> {
    for capability in caps::read(None, CapSet::Bounding)?.difference(kept) {
        caps::drop(None, CapSet::Bounding, *capability)?;
    }
    Ok(())
}

fn limit_to(kept: &CapsHashSet) -> Result<(), caps::errors::CapsError> {
    // What is in effect must be permitted, so that goes first. Nothing is passed on to programs that are executed: none is.
    caps::clear(None, CapSet::Effective)?;
    caps::clear(None, CapSet::Inheritable)?;
    caps::set(None, CapSet::Permitted, kept)?;
    caps::set(None, CapSet::Effective, kept)
}

/// Who to become.
#[derive(Debug, PartialEq, Eq)]
struct Identity {
    uid: Uid,
    gid: Gid,
    /// For the other groups it is in.
    name: Option<CString>,
}

fn become_user(user: &str, group: Option<&str>) -> Result<(), String> {
    let identity = identity(user, group)?;
    if (Uid::effective(), Gid::effective()) == (identity.uid, identity.gid) {
        return Ok(());
    }
    if !Uid::effective().is_root() {
        let now = Uid::effective();
        return Err(format!(
            "gateway.user: only root can become {user:?}, and this process is user {now}: start it as root, or leave `user` out"
        ));
    }
    let cannot = |error: nix::Error| failed(&format!("become {user:?} (gateway.user)"), &error);
    match &identity.name {
        Some(name) => unistd::initgroups(name, identity.gid).map_err(cannot)?,
        None => unistd::setgroups(&[identity.gid]).map_err(cannot)?,
    }
    unistd::setresgid(identity.gid, identity.gid, identity.gid).map_err(cannot)?;
    // Whoever stops being root loses what is permitted otherwise.
    prctl::set_keepcaps(true).map_err(cannot)?;
    unistd::setresuid(identity.uid, identity.uid, identity.uid).map_err(cannot)?;
    prctl::set_keepcaps(false).map_err(cannot)
}

/// By name; what is no name may be a number, of which the system need not know.
fn identity(user: &str, group: Option<&str>) -> Result<Identity, String> {
    let unknown = |what: &str, name: &str| format!("gateway.{what}: this machine has no {what} {name:?}");
    let looking = |what: &str, error: nix::Error| failed(&format!("look up gateway.{what}"), &error);
    let number = user.parse().ok().map(Uid::from_raw);
    let found = match (User::from_name(user).map_err(|error| looking("user", error))?, number) {
        (None, Some(uid)) => User::from_uid(uid).map_err(|error| looking("user", error))?,
        (found, _) => found,
    };
    let gid = match group {
        None => None,
        Some(group) => {
            let found = Group::from_name(group).map_err(|error| looking("group", error))?;
            let gid = found.map(|group| group.gid).or_else(|| group.parse().ok().map(Gid::from_raw));
            Some(gid.ok_or_else(|| unknown("group", group))?)
        }
    };
    match (found, number) {
        (Some(User { name, uid, gid: own, .. }), _) => {
            Ok(Identity { uid, gid: gid.unwrap_or(own), name: CString::new(name).ok() })
        }
        (None, Some(uid)) => {
            let gid =
                gid.ok_or_else(|| format!("gateway.user: user {uid} has no group of its own; name one in `group`"))?;
            Ok(Identity { uid, gid, name: None })
        }
        (None, None) => Err(unknown("user", user)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_and_groups_are_found_by_name_and_by_number() {
        let root = Identity { uid: Uid::from_raw(0), gid: Gid::from_raw(0), name: Some(c"root".to_owned()) };
        assert_eq!(identity("root", None).as_ref(), Ok(&root));
        assert_eq!(identity("0", Some("root")), Ok(root));
        let nameless = Identity { uid: Uid::from_raw(4_000_000_000), gid: Gid::from_raw(77_777_777), name: None };
        assert_eq!(identity("4000000000", Some("77777777")), Ok(nameless));
        for (user, group, error) in [
            ("no-such-user", None, "gateway.user: this machine has no user \"no-such-user\""),
            ("root", Some("no-such-group"), "gateway.group: this machine has no group \"no-such-group\""),
            ("4000000000", None, "gateway.user: user 4000000000 has no group of its own; name one in `group`"),
        ] {
            assert_eq!(identity(user, group), Err(error.to_owned()));
        }
    }
}
