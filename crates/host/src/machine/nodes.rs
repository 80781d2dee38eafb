//! NUMA nodes (Documentation/admin-guide/mm/numaperf.rst, Documentation/ABI/stable/sysfs-devices-node).

use std::fs;
use std::path::Path;

use api::{NumaNode, Size};

use super::{SYS, cpus, memory, text};

/// The nodes of the machine. One whose kernel knows of none is one itself.
pub fn nodes() -> Vec<NumaNode> {
    let found = find(Path::new(SYS));
    if !found.is_empty() {
        return found;
    }
    let (all, free) = memory();
    vec![NumaNode { number: 0, cpus: (0..cpus()).collect(), memory: all, memory_free: free }]
}

fn find(sys: &Path) -> Vec<NumaNode> {
    let entries = fs::read_dir(sys.join("devices/system/node")).into_iter().flatten().flatten();
    let node = |entry: fs::DirEntry| {
        let number = entry.file_name().to_str()?.strip_prefix("node")?.parse().ok()?;
        let memory = text(entry.path().join("meminfo"));
        // "Node 0 MemTotal:  16384 kB"
        let field = |name: &str| {
            let line = memory.lines().find_map(|line| line.split_once(name).map(|(_, rest)| rest))?;
            line.split_whitespace().next()?.parse::<u64>().ok()
        };
        let size = |name: &str| Size(field(name).unwrap_or(0) << 10);
        let cpus = numbers(&text(entry.path().join("cpulist")));
        Some(NumaNode { number, cpus, memory: size("MemTotal:"), memory_free: size("MemFree:") })
    };
    let mut nodes: Vec<_> = entries.filter_map(node).collect();
    nodes.sort_by_key(|node| node.number);
    nodes
}

/// The numbers in a list such as `0-3,8`.
fn numbers(list: &str) -> Vec<u32> {
    let part = |part: &str| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        Some(first.trim().parse().ok()?..=last.trim().parse().ok()?)
    };
    list.split(',').filter_map(part).flatten().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_node_has_its_processors_and_its_memory() {
        let sys = tempfile::tempdir().unwrap();
        for (number, cpus) in [(1, "4-6,12"), (0, "0-3"), (2, "")] {
            let node = sys.path().join(format!("devices/system/node/node{number}"));
            fs::create_dir_all(&node).unwrap();
            fs::write(node.join("cpulist"), format!("{cpus}\n")).unwrap();
            let memory =
                format!("Node {number} MemTotal:  {} kB\nNode {number} MemFree:  512 kB\n", 1024 << number);
            fs::write(node.join("meminfo"), memory).unwrap();
        }
        fs::write(sys.path().join("devices/system/node/online"), "0-2").unwrap();
        let nodes = find(sys.path());
        assert_eq!(nodes.iter().map(|node| node.number).collect::<Vec<_>>(), [0, 1, 2]);
        assert_eq!(nodes[1].cpus, [4, 5, 6, 12]);
        assert_eq!((nodes[1].memory, nodes[1].memory_free), (Size(2 << 20), Size(512 << 10)));
        assert!(nodes[2].cpus.is_empty());
        assert!(find(Path::new("/does/not/exist")).is_empty());
        assert!(!super::nodes().is_empty());
    }
}
