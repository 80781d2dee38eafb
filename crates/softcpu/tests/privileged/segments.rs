//! Segment registers: what a load checks, and what a loaded segment allows (Intel SDM vol. 3, 3.4 and 5.3 to 5.7).

use crate::guest::{CODE, DATA, GDT, Guest, STACK, code, gate};
use crate::{r, seg, sel, vector};

const LIMIT_1M: u64 = 0x000f_0000_0000_ffff;
/// Descriptors with base 0 and a limit of 1 MiB, by bits 47:40.
const fn descriptor(rights: u64) -> u64 {
    LIMIT_1M | 1 << 54 | rights << 40
}

fn load(code: &[u8], selector: u16, free: u64, user: bool) -> Guest {
    let guest = Guest::protected(code).with(r::AX, u64::from(selector));
    let mut guest = if user { guest.user() } else { guest };
    guest.descriptor(sel::FREE, free);
    guest
}

#[test]
fn a_load_of_a_data_segment_faults_with_the_selector_for_each_thing_that_is_wrong() {
    // Vol. 2, MOV: #GP(selector) for limit, type and privilege, #NP(selector) where it is not present.
    let free = sel::FREE;
    let cases = [
        ("beyond the table", 0x800, 0, false, Some((vector::GP, 0x800))),
        ("no local table", 0x0c, 0, false, Some((vector::GP, 0x0c))),
        ("a system segment", free, descriptor(0x82), false, Some((vector::GP, free))),
        ("a gate", free, gate(sel::CODE, CODE, 0x8c00), false, Some((vector::GP, free))),
        ("code that cannot be read", free, descriptor(0x98), false, Some((vector::GP, free))),
        ("code that can", free, descriptor(0x9a), false, None),
        ("conforming code for any level", free | 3, descriptor(0x9e), true, None),
        ("not present", free, descriptor(0x12), false, Some((vector::NP, free))),
        ("the type before presence", free, descriptor(0x18), false, Some((vector::GP, free))),
        ("RPL above DPL", free | 3, descriptor(0x92), false, Some((vector::GP, free))),
        ("CPL above DPL", free, descriptor(0x92), true, Some((vector::GP, free))),
        ("DPL 3 from level 0", free, descriptor(0xf2), false, None),
        ("null", 3, 0, false, None),
    ];
    for (what, selector, free, user, fault) in cases {
        for instruction in [code!(32, "mov ds, eax"), code!(32, "mov fs, eax")] {
            let mut g = load(instruction, selector, free, user);
            let before = g.state.segments;
            if let Some((vector, error)) = fault {
                let taken = g.fault();
                assert_eq!((taken.vector, taken.error, taken.at), (vector, u64::from(error), 0), "{what}");
                assert_eq!(g.state.segments[seg::DS], before[seg::DS], "{what}");
            } else {
                // A program at level 3 cannot halt, which is #GP behind the load.
                let taken = if user { Some(g.fault()) } else { None };
                if taken.is_none() {
                    g.run();
                }
                let loaded =
                    if instruction[0] == 0x8e && instruction[1] & 0x38 == 0x18 { seg::DS } else { seg::FS };
                assert_eq!(g.state.segments[loaded].selector, selector, "{what}");
                assert_eq!(taken.map_or(2, |t| t.at), 2, "{what}");
            }
        }
    }
}

#[test]
fn a_load_of_the_stack_segment_wants_writable_data_of_exactly_its_level() {
    // Vol. 2, MOV: null is #GP(0), absence #SS(selector).
    let free = sel::FREE;
    let cases = [
        ("null", 0, 0, Some((vector::GP, 0))),
        ("RPL", free | 1, descriptor(0x92), Some((vector::GP, free))),
        ("DPL", free, descriptor(0xb2), Some((vector::GP, free))),
        ("read-only", free, descriptor(0x90), Some((vector::GP, free))),
        ("code", free, descriptor(0x9a), Some((vector::GP, free))),
        ("beyond the table", 0x7f8 + 8, 0, Some((vector::GP, 0x800))),
        ("not present", free, descriptor(0x12), Some((vector::SS, free))),
        ("good", free, descriptor(0x92), None),
    ];
    for (what, selector, free, fault) in cases {
        let mut g = load(code!(32, "mov ss, eax"), selector, free, false);
        match fault {
            Some((vector, error)) => {
                let taken = g.fault();
                assert_eq!((taken.vector, taken.error, taken.at), (vector, u64::from(error), 0), "{what}");
            }
            None => g.run(),
        }
    }
}

#[test]
fn the_stack_segment_may_be_null_in_64_bit_mode_but_not_at_level_3() {
    // Vol. 2, MOV; vol. 3, 5.4.1.1.
    let load_null = code!(64, "mov ss, eax", "push rax");
    let mut g = Guest::long(load_null);
    g.run();
    assert!(g.state.segments[seg::SS].unusable);
    let mut g = Guest::long(load_null).with(r::AX, 3);
    assert_eq!((g.fault().vector, g.state.segments[seg::SS].selector), (vector::GP, sel::DATA));
    let mut g = Guest::long(load_null).with(r::AX, 3).user();
    let taken = g.fault();
    assert_eq!((taken.vector, taken.error, taken.at), (vector::GP, 0, 0));
}

#[test]
fn a_load_sets_the_accessed_bit_and_only_where_it_was_clear() {
    // Vol. 3, 3.4.5.1.
    let mut g = load(code!(32, "mov ds, eax"), sel::FREE, descriptor(0x92), false);
    g.run();
    let at = GDT + u64::from(sel::FREE);
    assert_eq!(g.read64(at), descriptor(0x93));
    // A table in a page that cannot be written does no harm to an accessed descriptor.
    let mut g = load(code!(32, "mov ds, eax"), sel::FREE, descriptor(0x93), false);
    g.map(GDT, GDT | 5);
    g.run();
    let mut g = load(code!(32, "mov ds, eax"), sel::FREE, descriptor(0x92), false);
    g.map(GDT, GDT | 5);
    let taken = g.fault();
    assert_eq!((taken.vector, taken.error), (vector::PF, 3));
    assert_eq!(g.state.segments[seg::DS].selector, sel::DATA);
}

#[test]
fn descriptors_are_read_with_the_supervisors_rights() {
    // Vol. 3, 4.6: implicit accesses are supervisor-mode accesses whatever the level.
    let mut g = load(code!(32, "mov ds, eax"), sel::FREE | 3, descriptor(0xf3), true);
    g.map(GDT, GDT | 1);
    assert_eq!((g.fault().at, g.state.segments[seg::DS].selector), (2, sel::FREE | 3));
    // Where the table is not there, the fault is no user's. Its handler's segment is in a page that is.
    let mut g = load(code!(32, "mov ds, eax"), 0xff8 | 3, 0, true);
    g.state.gdtr.limit = 0xfff;
    g.state.gdtr.base = GDT - 0x800;
    for at in (0..0x80).step_by(8) {
        let entry = g.read64(GDT + at);
        g.write64(GDT - 0x800 + at, entry);
    }
    // The task's segment is elsewhere too.
    g.state.tr.base = GDT - 0xc00;
    g.write64(GDT - 0xc00 + 4, STACK | u64::from(sel::DATA) << 32);
    g.unmap(GDT);
    let taken = g.fault();
    assert_eq!((taken.vector, taken.error, g.state.cr2), (vector::PF, 0, GDT + 0x7f8));
}

#[test]
fn a_segment_allows_what_its_type_says() {
    // Vol. 3, 5.5: data is written only where writable, code never and read only where readable.
    let cases = [
        ("read-only data", 0x90, code!(32, "mov ds, eax", "mov ecx, [ebx]", "mov [ebx], ecx"), Some(4)),
        ("readable code", 0x9a, code!(32, "mov ds, eax", "mov ecx, [ebx]", "mov [ebx], ecx"), Some(4)),
        ("writable data", 0x92, code!(32, "mov ds, eax", "mov ecx, [ebx]", "mov [ebx], ecx"), None),
        ("through CS", 0x92, code!(32, "mov ecx, cs:[ebx]", "nop", "mov cs:[ebx], ecx"), Some(4)),
    ];
    for (what, rights, code, fault) in cases {
        let mut g = load(code, sel::FREE, descriptor(rights), false).with(r::BX, DATA);
        match fault {
            Some(at) => {
                let taken = g.fault();
                assert_eq!((taken.vector, taken.error, taken.at), (vector::GP, 0, at), "{what}");
            }
            None => g.run(),
        }
    }
}

#[test]
fn limits_are_checked_to_the_last_byte_upwards_and_downwards() {
    // Vol. 3, 5.3. A limit of 0xfff bytes; expanding down, everything but those.
    let up = 0x0040_9200_0000_0fff;
    let down = 0x0040_9600_0000_0fff;
    let small_down = 0x0000_9600_0000_0fff;
    let cases = [
        ("the last double word", up, 0xffc, false),
        ("one byte too far", up, 0xffd, true),
        ("far beyond", up, 0x1000, true),
        ("below the limit", down, 0xfff, true),
        ("just above it", down, 0x1000, false),
        ("to the end of 4 GiB is too far", down, 0xffff_fffd, true),
        ("to the end of 64 KiB", small_down, 0xfffc, false),
        ("over it", small_down, 0xfffd, true),
    ];
    for (what, free, offset, faults) in cases {
        for (stack, code) in [
            (false, code!(32, "mov ds, eax", "mov ecx, [ebx]")),
            (true, code!(32, "mov ss, eax", "mov ecx, ss:[ebx]")),
        ] {
            let mut g = load(code, sel::FREE, free, false).with(r::BX, offset);
            if stack {
                // The handler runs on this stack.
                g.state.gpr[r::SP] = if free == up { 0x800 } else { 0x9000 };
            }
            if faults {
                let taken = g.fault();
                let expected = if stack { vector::SS } else { vector::GP };
                assert_eq!((taken.vector, taken.error, taken.at), (expected, 0, 2), "{what}");
            } else {
                g.run();
            }
        }
    }
}

#[test]
fn a_null_segment_may_be_loaded_and_not_used() {
    // Vol. 3, 5.4.1; 64-bit mode does not look.
    let code = code!(32, "mov ds, eax", "mov ecx, [ebx]");
    let mut g = Guest::protected(code).with(r::BX, DATA);
    let taken = g.fault();
    assert_eq!((taken.vector, taken.error, taken.at), (vector::GP, 0, 2));
    let mut g = Guest::long(code!(64, "mov ds, eax", "mov ecx, [rbx]")).with(r::BX, DATA);
    g.run();
}

#[test]
fn a_far_pointer_load_changes_nothing_when_its_selector_faults() {
    // Vol. 2, LDS/LES/LFS/LGS/LSS.
    for code in [code!(32, "les ecx, [ebx]"), code!(32, "lgs ecx, [ebx]"), code!(32, "lss ecx, [ebx]")] {
        let mut g = load(code, 0, descriptor(0x12), false).with(r::BX, DATA).with(r::CX, 77);
        g.write64(DATA, 0x1234 | u64::from(sel::FREE) << 32);
        let before = g.state.segments;
        let taken = g.fault();
        let lss = g.read(CODE, 2) == [0x0f, 0xb2];
        assert_eq!(taken.vector, if lss { vector::SS } else { vector::NP });
        assert_eq!((taken.error, g.reg(r::CX)), (u64::from(sel::FREE), 77));
        assert_eq!((g.state.segments[0], g.state.segments[5]), (before[0], before[5]));
    }
    let mut g = load(code!(32, "les ecx, [ebx]"), 0, descriptor(0x92), false).with(r::BX, DATA);
    g.write64(DATA, 0x1234 | u64::from(sel::FREE) << 32);
    g.run();
    assert_eq!((g.reg(r::CX), g.state.segments[seg::ES].selector), (0x1234, sel::FREE));
}

#[test]
fn a_local_table_serves_selectors_with_ti_set() {
    // Vol. 3, 3.5.1.
    let mut g = Guest::protected(code!(32, "lldt ax", "mov ds, ecx", "mov edx, [4]"))
        .with(r::AX, u64::from(sel::FREE))
        .with(r::CX, 0x0c);
    g.descriptor(sel::FREE, 0x0000_8200_0000_000f | DATA << 16);
    g.write64(DATA + 8, 0x0040_9208_0100_0fff);
    g.write32(DATA + 0x104, 0xabcd_ef01);
    g.run();
    assert_eq!((g.state.segments[seg::DS].base, g.reg(r::DX)), (DATA + 0x100, 0xabcd_ef01));
    let mut g = Guest::protected(code!(32, "lldt ax", "mov ds, ecx"))
        .with(r::AX, u64::from(sel::FREE))
        .with(r::CX, 0x14);
    g.descriptor(sel::FREE, 0x0000_8200_0000_000f | DATA << 16);
    let taken = g.fault();
    assert_eq!((taken.vector, taken.error), (vector::GP, 0x14), "beyond the local table");
}

#[test]
fn in_64_bit_mode_only_fs_and_gs_have_a_base_and_none_a_limit() {
    // Vol. 3, 3.2.4.
    let mut g = Guest::long(code!(
        64,
        "mov fs, eax",
        "mov ds, eax",
        "mov rcx, fs:[rbx]",
        "mov rdx, [rbx]",
        "mov esi, 0",
        "mov fs, esi"
    ))
    .with(r::AX, u64::from(sel::DATA16))
    .with(r::BX, DATA);
    g.write64(DATA + CODE, 5);
    g.write64(DATA, 6);
    g.run();
    assert_eq!((g.reg(r::CX), g.reg(r::DX)), (5, 6));
    assert_eq!(g.state.segments[seg::FS].base, 0, "a null selector clears the base");
}

#[test]
fn code_ends_at_the_limit_of_its_segment() {
    // Vol. 3, 5.3: #GP(0) for an instruction that is not wholly within the limit; those before it are executed.
    for (limit, at) in [(2, 2), (3, 3), (4, 3)] {
        let mut g = Guest::protected(code!(32, "inc eax", "inc eax", "inc eax", "mov ebx, eax"));
        g.state.segments[seg::CS].limit = CODE as u32 + limit - 1;
        let taken = g.fault();
        assert_eq!((taken.vector, taken.error, taken.at), (vector::GP, 0, at), "limit {limit}");
        assert_eq!(g.reg(r::AX), at);
    }
}
