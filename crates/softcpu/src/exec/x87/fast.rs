use crate::op::{Lowered, Op};
use iced_x86::Code;
pub(super) fn lower(_code: Code, _op: &Op) -> Option<Lowered> {
    None
}
