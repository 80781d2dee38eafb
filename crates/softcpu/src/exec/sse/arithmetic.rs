//! Arithmetic on floating-point numbers in XMM registers.

use iced_x86::Code;

use super::operations;
use crate::op::{Lowered, Op};

pub(super) fn lower(code: Code, op: &Op) -> Option<Lowered> {
    table(code, op)
}

operations! {
    Addps_xmm_xmmm128 "addps" Aligned Singles;
    Addpd_xmm_xmmm128 "addpd" Aligned Doubles;
    Addss_xmm_xmmm32 "addss" Double Single;
    Addsd_xmm_xmmm64 "addsd" Quad Double;
    Subps_xmm_xmmm128 "subps" Aligned Singles;
    Subpd_xmm_xmmm128 "subpd" Aligned Doubles;
    Subss_xmm_xmmm32 "subss" Double Single;
    Subsd_xmm_xmmm64 "subsd" Quad Double;
    Mulps_xmm_xmmm128 "mulps" Aligned Singles;
    Mulpd_xmm_xmmm128 "mulpd" Aligned Doubles;
    Mulss_xmm_xmmm32 "mulss" Double Single;
    Mulsd_xmm_xmmm64 "mulsd" Quad Double;
    Divps_xmm_xmmm128 "divps" Aligned Singles;
    Divpd_xmm_xmmm128 "divpd" Aligned Doubles;
    Divss_xmm_xmmm32 "divss" Double Single;
    Divsd_xmm_xmmm64 "divsd" Quad Double;
    Sqrtps_xmm_xmmm128 "sqrtps" Aligned Raises;
    Sqrtpd_xmm_xmmm128 "sqrtpd" Aligned Raises;
    Sqrtss_xmm_xmmm32 "sqrtss" Double Raises;
    Sqrtsd_xmm_xmmm64 "sqrtsd" Quad Raises;
    Maxps_xmm_xmmm128 "maxps" Aligned Raises;
    Maxpd_xmm_xmmm128 "maxpd" Aligned Raises;
    Maxss_xmm_xmmm32 "maxss" Double Raises;
    Maxsd_xmm_xmmm64 "maxsd" Quad Raises;
    Minps_xmm_xmmm128 "minps" Aligned Raises;
    Minpd_xmm_xmmm128 "minpd" Aligned Raises;
    Minss_xmm_xmmm32 "minss" Double Raises;
    Minsd_xmm_xmmm64 "minsd" Quad Raises;
    Rcpps_xmm_xmmm128 "rcpps" Aligned Quiet;
    Rcpss_xmm_xmmm32 "rcpss" Double Quiet;
    Rsqrtps_xmm_xmmm128 "rsqrtps" Aligned Quiet;
    Rsqrtss_xmm_xmmm32 "rsqrtss" Double Quiet;
    Andps_xmm_xmmm128 "andps" Aligned Quiet;
    Andpd_xmm_xmmm128 "andpd" Aligned Quiet;
    Andnps_xmm_xmmm128 "andnps" Aligned Quiet;
    Andnpd_xmm_xmmm128 "andnpd" Aligned Quiet;
    Orps_xmm_xmmm128 "orps" Aligned Quiet;
    Orpd_xmm_xmmm128 "orpd" Aligned Quiet;
    Xorps_xmm_xmmm128 "xorps" Aligned Quiet;
    Xorpd_xmm_xmmm128 "xorpd" Aligned Quiet;
    Addsubps_xmm_xmmm128 "addsubps" Aligned Singles;
    Addsubpd_xmm_xmmm128 "addsubpd" Aligned Doubles;
    Haddps_xmm_xmmm128 "haddps" Aligned Singles;
    Haddpd_xmm_xmmm128 "haddpd" Aligned Doubles;
    Hsubps_xmm_xmmm128 "hsubps" Aligned Singles;
    Hsubpd_xmm_xmmm128 "hsubpd" Aligned Doubles;
}
