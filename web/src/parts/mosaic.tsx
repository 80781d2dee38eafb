// The machine as a mosaic: a tile for each guest, as large as its memory, in the colour of its load. Drawn on a canvas, so that
// thousands of them can change at once.

import { useNavigate } from "@tanstack/react-router";
import { type PointerEvent, useEffect, useMemo, useRef, useState } from "react";

import type { Vm } from "../api/client";
import { selectLoads, selectVms, useLive } from "../api/live";
import type { Load, LoadOf } from "../api/load";
import { bytes, percent, t } from "../text";
import { colours, onTheme } from "./theme";
import { type Tile, tiles } from "./tiles";

const GAP = 2;
const COLOURS = ["--tile-idle", "--tile-low", "--tile-mid", "--tile-high", "--tile-full", "--tile-off", "--tile-change", "--tile-crashed", "--ink", "--tile-ink"] as const;
type Colours = Record<(typeof COLOURS)[number], string>;

function colour(vm: Vm, load: Load | undefined, of: Colours): string {
  switch (vm.status.state) {
    case "stopped": return of["--tile-off"];
    case "crashed": return of["--tile-crashed"];
    case "running": {
      const part = (load?.cpu ?? 0) / Math.max(1, vm.cpus ?? 1);
      return of[part < 0.05 ? "--tile-idle" : part < 0.3 ? "--tile-low" : part < 0.6 ? "--tile-mid" : part < 0.85 ? "--tile-high" : "--tile-full"];
    }
    default: return of["--tile-change"];
  }
}

export function Mosaic() {
  const vms = useLive(selectVms);
  const loads = useLive(selectLoads);
  const place = useRef<HTMLDivElement>(null);
  const canvas = useRef<HTMLCanvasElement>(null);
  const [size, setSize] = useState({ width: 0, height: 0 });
  const [over, setOver] = useState<{ vm: Vm; tile: Tile; x: number; y: number }>();
  const [themes, setThemes] = useState(0);
  const navigate = useNavigate();

  useEffect(() => {
    const element = place.current;
    if (!element) return;
    const sized = new ResizeObserver(() => setSize({ width: element.clientWidth, height: element.clientHeight }));
    sized.observe(element);
    return () => sized.disconnect();
  }, []);

  // Where a tile is depends on memory and age only, so that tiles stay where they are while guests come to life and rest.
  const layout = useMemo(() => {
    const sorted = [...vms].sort((a, b) => Number(b.memory) - Number(a.memory) || (a.id < b.id ? -1 : 1));
    return { vms: sorted, tiles: tiles(sorted.map((vm) => Math.max(1, Number(vm.memory))), size.width, size.height) };
  }, [vms, size]);

  useEffect(() => onTheme(() => setThemes((n) => n + 1)), []);
  useEffect(() => {
    const frame = requestAnimationFrame(() => {
      if (canvas.current && place.current) draw(canvas.current, colours(place.current, COLOURS), layout.vms, layout.tiles, loads, size);
    });
    return () => cancelAnimationFrame(frame);
  }, [layout, loads, size, themes]);

  const find = (event: PointerEvent) => {
    const box = event.currentTarget.getBoundingClientRect();
    const [x, y] = [event.clientX - box.left, event.clientY - box.top];
    const n = layout.tiles.findIndex((tile) => x >= tile.x && x < tile.x + tile.width && y >= tile.y && y < tile.y + tile.height);
    const [vm, tile] = [layout.vms[n], layout.tiles[n]];
    return vm && tile && { vm, tile, x: Math.min(x, box.width - 190), y: Math.min(y, box.height - 70) };
  };
  const running = vms.filter((vm) => vm.status.state === "running").length;
  const load = over && loads.get(over.vm.id);
  return (
    <div className="mosaic" ref={place}>
      <canvas
        ref={canvas} role="img" aria-label={t("mosaic.words", { n: vms.length, running })}
        onPointerMove={(event) => setOver(find(event))} onPointerLeave={() => setOver(undefined)}
        onClick={() => { if (over) void navigate({ to: "/guests/$name", params: { name: over.vm.name } }); }}
      />
      {over && <div className="mosaic-over" style={{ transform: `translate(${String(over.tile.x)}px, ${String(over.tile.y)}px)`, width: over.tile.width, height: over.tile.height }} />}
      {over && (
        <div className="mosaic-tip" style={{ transform: `translate(${String(over.x + 12)}px, ${String(over.y + 12)}px)` }}>
          <strong><bdi>{over.vm.name}</bdi></strong>
          <span>{t(`state.${over.vm.status.state}`)} · {bytes(over.vm.memory)}{load ? ` · ${percent(load.cpu / Math.max(1, over.vm.cpus ?? 1))}` : ""}</span>
        </div>
      )}
    </div>
  );
}

function draw(canvas: HTMLCanvasElement, of: Colours, vms: readonly Vm[], all: readonly Tile[], loads: LoadOf, size: { width: number; height: number }): void {
  const scale = window.devicePixelRatio;
  const [width, height] = [Math.round(size.width * scale), Math.round(size.height * scale)];
  if (canvas.width !== width || canvas.height !== height) [canvas.width, canvas.height] = [width, height];
  const pen = canvas.getContext("2d");
  if (!pen) return;
  pen.setTransform(scale, 0, 0, scale, 0, 0);
  pen.clearRect(0, 0, size.width, size.height);
  pen.font = "600 12px system-ui, sans-serif";
  pen.textBaseline = "top";
  all.forEach((tile, n) => {
    const vm = vms[n];
    if (!vm) return;
    const gap = Math.min(GAP, tile.width / 4, tile.height / 4);
    const [x, y, w, h] = [tile.x + gap / 2, tile.y + gap / 2, tile.width - gap, tile.height - gap];
    pen.fillStyle = colour(vm, loads.get(vm.id), of);
    if (w > 12 && h > 12) {
      pen.beginPath();
      pen.roundRect(x, y, w, h, 3);
      pen.fill();
    } else pen.fillRect(x, y, w, h);
    if (w > 64 && h > 26) {
      pen.fillStyle = vm.status.state === "stopped" ? of["--ink"] : of["--tile-ink"];
      const most = Math.floor((w - 14) / 7);
      pen.fillText(vm.name.length > most ? `${vm.name.slice(0, Math.max(1, most - 1))}…` : vm.name, x + 8, y + 7);
    }
  });
}
