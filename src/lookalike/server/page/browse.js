// Some of the catalogue, for those who have no photo at hand.

import * as api from "./api.js";
import { find, make } from "./elements.js";
import { tile } from "./results.js";

const MANY = 12;

/** Fill the shelf of the first page; `onItem({item, picture})` is told which one is pressed. */
export async function browse(onItem) {
  const { items } = await api.items(MANY);
  const read = await Promise.allSettled(items.map(({ item }) => api.item(item)));
  const whole = read.filter(({ value }) => value?.pictures.length).map(({ value }) => ({ ...value, picture: value.pictures[0].picture }));
  find("shelf").replaceChildren(...whole.map((each) => make("li", { class: "card" }, tile(each, () => onItem(each)))));
  find("browse").hidden = !whole.length;
}
