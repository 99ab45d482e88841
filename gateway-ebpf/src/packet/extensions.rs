//! IPv6 extension headers: the walk from the fixed header to that of the transport protocol (RFC 8200 §4).
//!
//! In the program the walk is a BPF function of its own that the verifier looks at once, and such a function takes and
//! gives numbers: hence [`Link`] and [`Chain`].

use super::{Frame, Shape};

/// Extension headers that are walked through. RFC 8200 §4.1 has five of them in a packet, each once but for destination
/// options; a longer chain hides the ports from whoever does not walk as far as the receiver.
pub const EXTENSIONS_MAX: usize = 8;

/// Where a chain may end. The largest one with the most headers that Ethernet frames have room for ends before, and the
/// verifier wants to see that an offset is small.
const OFFSET_BITS: u32 = 14;
const OFFSET_MASK: usize = (1 << OFFSET_BITS) - 1;

const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const DESTINATION: u8 = 60;

/// Where a chain begins: the offset of its first header, and that header's number.
#[derive(Clone, Copy)]
#[repr(transparent)]
pub struct Link(pub u32);

impl Link {
    #[inline(always)]
    pub(super) fn new(offset: usize, number: u8) -> Link {
        Link(u32::from(number) << OFFSET_BITS | (offset & OFFSET_MASK) as u32)
    }

    #[inline(always)]
    fn offset(self) -> usize {
        self.0 as usize & OFFSET_MASK
    }

    #[inline(always)]
    fn number(self) -> u8 {
        (self.0 >> OFFSET_BITS) as u8
    }
}

/// What is behind the extension headers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(transparent)]
pub struct Chain(pub u64);

impl Chain {
    const NUMBER: u32 = OFFSET_BITS;
    const SHAPE: u32 = Chain::NUMBER + 8;
    const ID: u32 = 32;

    const WHOLE: u64 = 0;
    const FIRST: u64 = 1;
    const LATER: u64 = 2;
    const HIDDEN: u64 = 3;

    #[inline(always)]
    pub(super) fn new(link: Link, shape: Shape) -> Chain {
        let (kind, id) = match shape {
            Shape::Whole => (Chain::WHOLE, 0),
            Shape::First(id) => (Chain::FIRST, id),
            Shape::Later(id) => (Chain::LATER, id),
            Shape::Cut | Shape::Hidden => (Chain::HIDDEN, 0),
        };
        Chain(u64::from(link.0) | kind << Chain::SHAPE | u64::from(id) << Chain::ID)
    }

    /// Offset of the header that no extension follows.
    #[inline(always)]
    pub(super) fn offset(self) -> usize {
        self.0 as usize & OFFSET_MASK
    }

    /// That header's number.
    #[inline(always)]
    pub(super) fn number(self) -> u8 {
        (self.0 >> Chain::NUMBER) as u8
    }

    /// Which part of its packet the frame has.
    #[inline(always)]
    pub(super) fn shape(self) -> Shape {
        let id = (self.0 >> Chain::ID) as u32;
        match (self.0 >> Chain::SHAPE) & 3 {
            Chain::WHOLE => Shape::Whole,
            Chain::FIRST => Shape::First(id),
            Chain::LATER => Shape::Later(id),
            _ => Shape::Hidden,
        }
    }
}

/// The [`walk`] over a frame, as [`Ip::parse`](super::Ip::parse) takes it.
#[inline(always)]
pub fn over(frame: Frame) -> impl FnOnce(Link) -> Chain {
    move |start| walk(frame, start)
}

/// Walks to the header that no extension follows. A chain that is too long, or longer than the frame, ends in
/// [`Shape::Hidden`].
#[inline(always)]
pub fn walk(frame: Frame, start: Link) -> Chain {
    const HIDDEN: Chain = Chain(Chain::HIDDEN << Chain::SHAPE);
    let (mut offset, mut number, mut shape) = (start.offset(), start.number(), Shape::Whole);
    for _ in 0..=EXTENSIONS_MAX {
        let length = match number {
            HOP_BY_HOP | ROUTING | DESTINATION => {
                let Some([next, length]) = frame.read::<[u8; 2]>(offset) else { return HIDDEN };
                number = next;
                (usize::from(length) + 1) * 8
            }
            FRAGMENT => {
                let Some(header) = frame.read::<[u8; 8]>(offset) else { return HIDDEN };
                number = header[0];
                shape = fragment(header);
                8
            }
            _ => return Chain::new(Link::new(offset, number), shape),
        };
        offset += length;
        if offset > OFFSET_MASK {
            return HIDDEN;
        }
        if matches!(shape, Shape::Later(_)) {
            return Chain::new(Link::new(offset, number), shape);
        }
    }
    HIDDEN
}

/// RFC 8200 §4.5; a fragment that is all of its packet is none (RFC 6946).
#[inline(always)]
fn fragment(header: [u8; 8]) -> Shape {
    let place = u16::from_be_bytes([header[2], header[3]]);
    let id = u32::from_ne_bytes([header[4], header[5], header[6], header[7]]);
    match (place & !7, place & 1) {
        (0, 0) => Shape::Whole,
        (0, _) => Shape::First(id),
        _ => Shape::Later(id),
    }
}
