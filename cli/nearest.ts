// The word that somebody meant: for messages about names that do not exist. Pure.

/** Least number of letters put in, left out, exchanged or swapped with their neighbour that turns `a` into `b`. */
export function distance(a: string, b: string): number {
  const rows: number[][] = Array.from({ length: a.length + 1 }, (_, i) => [i]);
  for (let j = 1; j <= b.length; j++) (rows[0] as number[])[j] = j;
  const at = (i: number, j: number): number => rows[i]?.[j] ?? 0;
  for (let i = 1; i <= a.length; i++)
    for (let j = 1; j <= b.length; j++) {
      const same = a[i - 1] === b[j - 1] ? 0 : 1;
      let least = Math.min(at(i - 1, j) + 1, at(i, j - 1) + 1, at(i - 1, j - 1) + same);
      if (i > 1 && j > 1 && a[i - 1] === b[j - 2] && a[i - 2] === b[j - 1])
        least = Math.min(least, at(i - 2, j - 2) + 1);
      (rows[i] as number[])[j] = least;
    }
  return at(a.length, b.length);
}

/** The nearest of the names, if it is near enough to be a slip of the hand; one that begins with the word counts too. */
export function nearest(word: string, names: readonly string[]): string | undefined {
  const limit = Math.max(1, Math.floor(word.length / 3));
  const near = names
    .map((name) => ({ name, far: distance(word.toLowerCase(), name.toLowerCase()) }))
    .filter(({ far }) => far <= limit)
    .sort((x, y) => x.far - y.far)[0];
  if (near !== undefined) return near.name;
  const longer = word.length >= 2 ? names.filter((name) => name.startsWith(word)) : [];
  return longer.length === 1 ? longer[0] : undefined;
}

/** "; did you mean NAME?" or, when nothing is near, `otherwise`. */
export function didYouMean(word: string, names: readonly string[], otherwise = ""): string {
  const name = nearest(word, names);
  return name === undefined ? otherwise : `; did you mean ${name}?`;
}

/** Names for a message: all of them, or the first ones and how many more. */
export function listed(names: readonly string[], most = 12): string {
  if (names.length === 0) return "none";
  const shown = names.slice(0, most).join(", ");
  return names.length <= most ? shown : `${shown} and ${names.length - most} more`;
}
