//! Telling the service manager, and whoever started the process, how far it is.
//!
//! The unit is of `Type=notify-reload`: systemd sends SIGHUP, sees `RELOADING=1`, and waits for the next `READY=1`.
//! Without a service manager (`NOTIFY_SOCKET` is not set) only the line on standard output remains.

use std::io::Write;

use sd_notify::NotifyState;

/// Every listener accepts: `READY` on standard output, for scripts and tests, and `READY=1`.
pub fn ready() {
    let mut stdout = std::io::stdout().lock();
    if let Err(error) = writeln!(stdout, "READY").and_then(|()| stdout.flush()) {
        log::warn!("cannot write READY to standard output: {error}");
    }
    tell(&[NotifyState::Ready]);
}

/// A reload begins.
pub fn reloading() {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => tell(&[NotifyState::Reloading, now]),
        Err(error) => log::warn!("cannot tell the service manager of the reload: {error}"),
    }
}

/// A reload has ended, whether or not it changed anything; `status` is what `systemctl status` shows.
pub fn reloaded(status: &str) {
    tell(&[NotifyState::Ready, NotifyState::Status(status)]);
}

/// The process drains and will exit.
pub fn stopping() {
    tell(&[NotifyState::Stopping]);
}

fn tell(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        log::warn!("cannot tell the service manager {state:?}: {error}");
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixDatagram;
    use std::process::Command;
    use std::time::Duration;

    const CHILD: &str = "control::notify::tests::the_service_manager_hears_each_step";

    /// The socket's name is in the environment, which a test must not change for the others: the test starts itself
    /// again with it set.
    #[test]
    fn the_service_manager_hears_each_step() {
        if std::env::var_os("NOTIFY_SOCKET").is_some() {
            super::ready();
            super::reloading();
            super::reloaded("generation 2");
            return super::stopping();
        }
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        let mut child = Command::new(std::env::current_exe().unwrap());
        let output = child.args(["--exact", CHILD, "--nocapture"]).env("NOTIFY_SOCKET", &path).output().unwrap();
        assert!(output.status.success());
        assert!(String::from_utf8_lossy(&output.stdout).lines().any(|line| line.ends_with("READY")));
        for expected in ["READY=1\n", "RELOADING=1\nMONOTONIC_USEC=", "READY=1\nSTATUS=generation 2\n", "STOPPING=1\n"]
        {
            let mut buffer = [0; 256];
            let length = socket.recv(&mut buffer).unwrap();
            let message = String::from_utf8_lossy(&buffer[..length]).into_owned();
            assert!(message.starts_with(expected), "{message:?}");
        }
    }
}
