// What the programs of all clients share: arguments and report.
import { readFileSync } from 'node:fs'

export const [URL, PICTURE] = process.argv.slice(2)
export const BASE64 = readFileSync(PICTURE).toString('base64')
export const DATA_URL = `data:image/png;base64,${BASE64}`
export const report = (got) => console.log(JSON.stringify(got)) // text, picture, pieces, second_turn
