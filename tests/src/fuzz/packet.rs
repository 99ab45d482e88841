//! The frame parser of the XDP program, which reads by pointers: the verifier proves its bounds in the kernel, this the
//! same code's on the host.

use std::ops::Range;
use std::ptr::{self, NonNull};

use gateway_ebpf::abi::service::{Ip4, Ip6};
use gateway_ebpf::packet::{
    ETHERTYPE_IPV4, ETHERTYPE_IPV6, Frame, Ip, Packet, Parsed, Shape, Source, extensions, protocol,
};

/// A frame. Two bytes more at its end: a place in it where a quoted packet is looked for.
pub fn packet(input: &[u8]) {
    let (bytes, place) = input.split_at(input.len().saturating_sub(2));
    let guarded = Guarded::new(bytes);
    let frame = guarded.frame();
    let source = frame.source();
    match frame.network() {
        Some((ETHERTYPE_IPV4, offset)) => check::<Ip4>(frame, offset, bytes, matches!(source, Source::V4(_))),
        Some((ETHERTYPE_IPV6, offset)) => check::<Ip6>(frame, offset, bytes, matches!(source, Source::V6(_))),
        Some(_) => assert_eq!(source, Source::NotIp),
        None => assert_eq!(source, Source::Malformed),
    }
    let place = place.iter().fold(0, |place, byte| place << 8 | usize::from(*byte));
    check_quoted::<Ip4>(frame, place, bytes);
    check_quoted::<Ip6>(frame, place, bytes);
}

fn check<A: Ip>(frame: Frame, offset: usize, bytes: &[u8], has_source: bool) {
    let Parsed::Packet(packet) = A::parse(frame, offset, extensions::over(frame)) else {
        return assert!(!has_source);
    };
    assert!(has_source && packet.network == offset);
    let header = match packet.protocol {
        protocol::TCP => 20,
        _ => 8,
    };
    check_bounds(&packet, header, bytes);
}

fn check_quoted<A: Ip>(frame: Frame, offset: usize, bytes: &[u8]) {
    if let Parsed::Packet(packet) = A::parse_quoted(frame, offset, extensions::over(frame)) {
        assert_eq!(packet.network, offset);
        check_bounds(&packet, 8, bytes);
    }
}

/// What the program relies on: the IP header is in the frame, and so are `header` bytes of the transport header of a
/// packet that has one and is not cut.
fn check_bounds<A: Ip>(packet: &Packet<A>, header: usize, bytes: &[u8]) {
    assert!(packet.network + A::HEADER <= bytes.len());
    assert!(packet.transport >= packet.network + A::HEADER);
    let has_header = matches!(packet.protocol, protocol::TCP | protocol::UDP | protocol::ICMP | protocol::ICMPV6);
    let has_ports = matches!(packet.protocol, protocol::TCP | protocol::UDP);
    match packet.shape {
        Shape::Whole | Shape::First(_) if has_header => {
            assert!(packet.transport + header <= bytes.len());
            let ports: [u8; 4] = bytes[packet.transport..][..4].try_into().unwrap();
            assert_eq!(packet.ports.to_ne_bytes(), if has_ports { ports } else { [0; 4] });
        }
        Shape::Whole | Shape::First(_) | Shape::Later(_) | Shape::Cut | Shape::Hidden => assert_eq!(packet.ports, 0),
    }
}

/// Bytes whose end is the end of a page. Nobody may touch the next one, so a read behind the end ends the process.
struct Guarded {
    pages: NonNull<u8>,
    mapped: usize,
    bytes: Range<usize>,
}

impl Guarded {
    const PAGE: usize = 4096;

    fn new(bytes: &[u8]) -> Guarded {
        let readable = bytes.len().div_ceil(Self::PAGE).max(1) * Self::PAGE;
        let mapped = readable + Self::PAGE;
        let (access, kind) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
        // SAFETY: the kernel chooses pages that nobody else has.
        let pages = unsafe { libc::mmap(ptr::null_mut(), mapped, access, kind, -1, 0) };
        assert_ne!(pages, libc::MAP_FAILED);
        let pages = NonNull::new(pages.cast::<u8>()).expect("mapped at an address");
        let start = readable - bytes.len();
        // SAFETY: the copy ends where the readable pages end, and the last page is ours too.
        unsafe {
            ptr::copy_nonoverlapping(bytes.as_ptr(), pages.as_ptr().add(start), bytes.len());
            assert_eq!(libc::mprotect(pages.as_ptr().add(readable).cast(), Self::PAGE, libc::PROT_NONE), 0);
        }
        Guarded { pages, mapped, bytes: start..readable }
    }

    fn frame(&self) -> Frame {
        // SAFETY: the bytes stay readable and unwritten as long as `self`, which the callers keep longer than the frame.
        unsafe { Frame::new(self.pages.as_ptr().add(self.bytes.start), self.pages.as_ptr().add(self.bytes.end)) }
    }
}

impl Drop for Guarded {
    fn drop(&mut self) {
        // SAFETY: the pages that `new` has mapped, which nobody uses any more.
        unsafe { libc::munmap(self.pages.as_ptr().cast(), self.mapped) };
    }
}
