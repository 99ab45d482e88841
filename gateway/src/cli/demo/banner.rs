//! What the demo says when it is ready: commands to copy, and what each of them shows.

use std::fmt;

use super::Addresses;
use super::config::GREEN_SHARES;
use super::lab::Lab;

/// The whole text. Commands are on lines of their own, so that a triple click takes one.
pub(super) struct Banner<'a> {
    pub addresses: &'a Addresses,
    /// The lab, or why there is none.
    pub lab: Result<&'a Lab, &'a String>,
    pub colour: bool,
}

impl fmt::Display for Banner<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Addresses { http, https, tcp, admin } = self.addresses;
        self.title(f, "The demo runs. Copy commands from here into another terminal.")?;
        writeln!(f, "HTTP on {http}, HTTPS on {https}; behind them two origins, blue and green.")?;

        self.title(f, "Routing")?;
        self.command(f, "round robin: the origins take turns", format_args!("curl 'http://{http}/?[1-4]'"))?;
        let canary = format!("curl -s 'http://{http}/canary?[1-100]' | sort | uniq -c");
        self.command(f, &format!("weights: green gets {} %", GREEN_SHARES[0]), &canary)?;
        self.command(
            f,
            "by host: this one is green's",
            format_args!("curl -H 'host: green.demo.localhost' http://{http}/"),
        )?;
        self.command(f, "no route: 404", format_args!("curl -i http://{http}/nowhere"))?;

        self.title(f, "What a route can do")?;
        self.command(
            f,
            "rewrite path and host, edit headers both ways; the origin shows what it got",
            format_args!("curl -i http://{http}/api/v1/headers"),
        )?;
        self.command(f, "answer without an origin", format_args!("curl -i http://{http}/teapot"))?;
        self.command(f, "time out after a second: 504", format_args!("curl -i http://{http}/slow/3000"))?;
        self.command(
            f,
            "chunked bodies both ways",
            format_args!("curl -i -H 'transfer-encoding: chunked' -d 'hello' http://{http}/echo"),
        )?;
        self.command(f, "a body of 100 MB, streamed", format_args!("curl -s http://{http}/bytes/100000000 | wc -c"))?;

        self.title(f, "TLS, with a self-signed certificate (hence -k)")?;
        let name = format!("https://green.demo.localhost:{}/", https.port());
        self.command(f, "by server name", format_args!("curl -k {name}"))?;
        self.command(f, "redirect from HTTP", format_args!("curl -k -i -L http://{http}/secure"))?;

        self.title(f, "Other protocols")?;
        self.command(
            f,
            "HTTP/2 over TLS, by ALPN; the origins speak HTTP/1.1",
            format_args!("curl -k -i --http2 {name}"),
        )?;
        self.command(
            f,
            "HTTP/2 in the clear, and a gRPC call that no route takes: its status is in gRPC's terms",
            format_args!(
                "curl -i --http2-prior-knowledge -H 'content-type: application/grpc' -d '' http://{http}/demo.Service/Call"
            ),
        )?;
        self.command(
            f,
            "a TCP relay: the origin gets what the client sends, byte for byte",
            format_args!("curl http://{tcp}/relayed"),
        )?;

        self.title(f, "Operation")?;
        let [_, second, third] = GREEN_SHARES;
        self.command(
            f,
            &format!("hot reload: green's share of /canary becomes {second} %, then {third} %; no connection is cut"),
            format_args!("curl -X POST http://{admin}/reload"),
        )?;
        self.command(f, "and see", canary)?;
        self.command(f, "the running configuration", format_args!("curl -s http://{admin}/config"))?;
        self.command(
            f,
            "metrics",
            format_args!("curl -s http://{admin}/metrics | grep '^gateway_route_requests_total.* [1-9]'"),
        )?;

        self.xdp(f)?;
        writeln!(f, "\nAccess log lines follow. Stop with Ctrl-C.\n")
    }
}

impl Banner<'_> {
    fn xdp(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lab = match self.lab {
            Ok(lab) => lab,
            Err(why) => {
                self.title(f, "XDP is off")?;
                return writeln!(f, "  {why}");
            }
        };
        self.title(f, "XDP, with two clients in network namespaces; an access rule denies one of them")?;
        for (command, shows) in lab.commands(self.addresses.http.port()) {
            self.command(f, shows, command)?;
        }
        self.command(
            f,
            "packets by reason",
            format_args!("curl -s http://{}/metrics | grep '^gateway_xdp_packets_total'", self.addresses.admin),
        )
    }

    fn title(&self, f: &mut fmt::Formatter<'_>, text: &str) -> fmt::Result {
        match self.colour {
            true => writeln!(f, "\n\x1b[1m{text}\x1b[0m"),
            false => writeln!(f, "\n{text}"),
        }
    }

    fn command(&self, f: &mut fmt::Formatter<'_>, shows: &str, command: impl fmt::Display) -> fmt::Result {
        match self.colour {
            true => writeln!(f, "  {shows}\n    \x1b[36m{command}\x1b[0m"),
            false => writeln!(f, "  {shows}\n    {command}"),
        }
    }
}
