// A rectangle divided into tiles whose areas are as given: squarified (Bruls, Huizing, van Wijk, 2000).

export interface Tile {
  x: number;
  y: number;
  width: number;
  height: number;
}

/** Tiles in the order of `sizes`, which must be sorted, the largest first, and above zero. */
export function tiles(sizes: readonly number[], width: number, height: number): Tile[] {
  const total = sizes.reduce((sum, size) => sum + size, 0);
  if (total <= 0 || width <= 0 || height <= 0) return [];
  const scale = (width * height) / total;
  const placed: Tile[] = [];
  let [x, y, w, h, from] = [0, 0, width, height, 0];
  while (from < sizes.length) {
    const side = Math.min(w, h);
    let [to, sum, worst] = [from, 0, Infinity];
    // A row grows as long as that makes its tiles more like squares.
    while (to < sizes.length) {
      const next = sum + (sizes[to] ?? 0) * scale;
      const largest = (sizes[from] ?? 0) * scale;
      const smallest = (sizes[to] ?? 0) * scale;
      const ratio = Math.max((side * side * largest) / (next * next), (next * next) / (side * side * smallest));
      if (ratio > worst) break;
      [worst, sum, to] = [ratio, next, to + 1];
    }
    const thick = side > 0 ? sum / side : 0;
    let along = 0;
    for (let n = from; n < to; n++) {
      const long = thick > 0 ? ((sizes[n] ?? 0) * scale) / thick : 0;
      placed.push(w >= h ? { x, y: y + along, width: thick, height: long } : { x: x + along, y, width: long, height: thick });
      along += long;
    }
    if (w >= h) [x, w] = [x + thick, w - thick];
    else [y, h] = [y + thick, h - thick];
    from = to;
  }
  return placed;
}
