// Tables of some dozens of rows; on a narrow screen each row is a card. The table of guests, which may be ten thousand, is its own.

import type { ReactNode } from "react";

export interface Column<T> {
  name: string;
  /** What stands there. */
  of: (row: T) => ReactNode;
  number?: boolean;
  /** The column that tells which row it is. */
  main?: boolean;
}

interface Props<T> {
  label: string;
  columns: readonly Column<T>[];
  rows: readonly T[];
  id: (row: T) => string;
}

export function Table<T>({ label, columns, rows, id }: Props<T>) {
  return (
    <div className="table-place" tabIndex={0} role="region" aria-label={label}>
      <table className="table">
        <thead>
          <tr>{columns.map((column) => <th key={column.name} scope="col" className={column.number ? "number" : ""}>{column.name || <span className="hidden-text">·</span>}</th>)}</tr>
        </thead>
        <tbody>
          {rows.map((row) => (
            <tr key={id(row)}>
              {columns.map((column) => {
                const kind = [column.number ? "number" : "", column.main ? "main" : "", column.name ? "" : "row-actions"].join(" ").trim();
                return column.main
                  ? <th key={column.name} scope="row" className={kind}>{column.of(row)}</th>
                  : <td key={column.name} className={kind} data-name={column.name}>{column.of(row)}</td>;
              })}
            </tr>
          ))}
        </tbody>
      </table>
    </div>
  );
}
